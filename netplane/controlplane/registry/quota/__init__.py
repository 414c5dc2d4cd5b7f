"""What objects count for against ResourceQuotas (`usage`), and what LimitRanges make of pods and claims (`limits`)."""
