from kvasir.models.common.decoder import DECODER_WEIGHTS
from kvasir.models.weights import Place, Rename, Skip, Stack, checkpoint_name, place

RULES = (Rename("transformer.", "model."), Skip(r"inv_freq$"), *DECODER_WEIGHTS)


def test_place() -> None:
    layer = "model.layers.3"
    assert place(f"{layer}.self_attn.k_proj.bias", RULES, False) == Place(f"{layer}.self_attn.qkv_proj.bias", "k")
    assert place(f"{layer}.mlp.up_proj.weight", RULES, False) == Place(f"{layer}.mlp.gate_up_proj.weight", "up")
    assert place(f"{layer}.mlp.down_proj.weight", RULES, False) == Place(f"{layer}.mlp.down_proj.weight")
    assert place("transformer.norm.weight", RULES, False) == Place("model.norm.weight")
    assert place("transformer.layers.0.self_attn.rotary_emb.inv_freq", RULES, False) is None


def test_tied_head_is_ignored_only_when_tied() -> None:
    assert place("lm_head.weight", RULES, True) is None
    assert place("lm_head.weight", RULES, False) == Place("lm_head.weight")


def test_stack_looks_at_whole_names() -> None:
    rules = (Stack("qkv_proj", {"q_proj": "q"}),)
    assert place("model.my_q_proj.weight", rules, False) == Place("model.my_q_proj.weight")


def test_way_back() -> None:
    name = "model.layers.0.self_attn.v_proj.weight"
    where = place(name, DECODER_WEIGHTS, False)
    assert where is not None
    assert checkpoint_name(where.parameter, where.part, DECODER_WEIGHTS) == name
    assert checkpoint_name("model.norm.weight", "", DECODER_WEIGHTS) == "model.norm.weight"
