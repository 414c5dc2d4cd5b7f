"""Programs that the kernel runs on packets (bpf(2)): written as data by `assembly`, loaded by `run`. No compiler."""
