"""Plans that the tests of the planner share."""

from hypothesis import strategies as st

from optimizer.catalogue.catalogue import gpu, model
from optimizer.planner.step import ALONE, PRIORS, Constants, Split, StepCost, step_cost

GPUS = ("A100-SXM4-80GB", "H100-SXM-80GB", "H200-SXM-141GB", "B200-SXM-180GB", "L40S", "L4", "T4", "RTX 4090")
DENSE = ("Llama-3.1-8B", "Llama-3.1-70B", "Qwen3-32B")
MIXTURES = ("Mixtral-8x7B", "gpt-oss-120b", "DeepSeek-V3")
NOTHING_BESIDES = Constants(layer_us=0.0, routing=0.0, sequence_us=0.0, step_ms=0.0, bubble=0.0)

gpus = st.sampled_from(GPUS)
models = st.sampled_from(DENSE + MIXTURES)
batches = st.integers(1, 512)
lengths = st.integers(1, 8192)


def cost(
    model_name: str = "Llama-3.1-8B",
    gpu_name: str = "H100-SXM-80GB",
    split: Split = ALONE,
    weight_dtype: str = "auto",
    kv_dtype: str = "auto",
    constants: Constants = PRIORS,
) -> StepCost:
    return step_cost(model(model_name).shape, gpu(gpu_name), split, weight_dtype, kv_dtype, constants)
