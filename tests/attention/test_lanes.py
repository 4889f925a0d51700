import pytest
import torch
import torch.nn.functional as F

from vsf_cli.attention.lanes import in_lanes, mask_in_lanes, missing


@pytest.mark.parametrize(("keys", "wanted"), [(1, 15), (15, 1), (16, 0), (17, 15), (26, 6)])
def test_how_many_keys_are_missing(keys: int, wanted: int) -> None:
    assert missing(keys) == wanted


@pytest.mark.parametrize("keys", [5, 16, 26])
def test_keys_in_full_lanes_change_nothing(keys: int) -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 3, length, 8, dtype=torch.float64) for length in (7, keys, keys))
    mask = torch.randn(2, 1, 7, keys, dtype=torch.float64)
    wanted = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)

    assert in_lanes(key).shape[2] % 16 == 0
    found = F.scaled_dot_product_attention(query, in_lanes(key), in_lanes(value), attn_mask=mask_in_lanes(mask))
    torch.testing.assert_close(found, wanted, atol=1e-14, rtol=0)
