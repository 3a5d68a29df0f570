"""What a network's layers cost on the machine that will run it, measured: `compress profile`, `--target-latency`.

design      which widths to measure
kit         the models of these widths, in one file that runs on the machine
on_device   the measuring itself: python3, numpy and ONNX Runtime alone
profile     what was measured, as JSON
tables      the cost of any widths, from what was measured
multiples   which multiples of channels the machine's kernels like
"""
