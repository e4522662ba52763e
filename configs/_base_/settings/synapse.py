# Synapse at full size: data, schedule and runtime, for any method.
_base_ = ["../default_runtime.py", "../datasets/synapse.py", "../schedules/adam_30k.py"]
