"""Keep a part of the world as wanted. What to keep a target says, when to act the loop, how it went the report."""
