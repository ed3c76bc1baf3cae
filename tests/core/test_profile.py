"""What the times of a run say."""

from __future__ import annotations

import pytest

from wsiprep.core.profile import EncodeTimes, Profile


def profile(
    *, workers=4, cores=8, device="cuda", gpu_decode=False, spare_bf16=False, seconds=10.0, **spent
):
    times = EncodeTimes(tiles=1000, seconds=seconds, **spent)
    return Profile(workers, cores, device, {"a": times}, gpu_decode, spare_bf16)


READING = {"decode_s": 30, "cut_s": 2, "read_s": 1, "wait_s": 9, "encode_s": 1, "bytes": 10**6}


@pytest.mark.parametrize(
    ("given", "bound", "remedy"),
    [
        (profile(**READING), "reader", "4 of 8 cores"),
        (profile(workers=8, **{**READING, "decode_s": 70}), "reader", "All 8 cores are decoding"),
        (profile(workers=8, **{**READING, "decode_s": 70}), "reader", "try --decode nvimgcodec"),
        (
            profile(workers=8, device="cpu", **{**READING, "decode_s": 70}),
            "reader",
            "give the job more of them.",
        ),
        (profile(gpu_decode=True, **{**READING, "decode_s": 9}), "reader", "with --decode cpu"),
        (profile(workers=8, decode_s=0, patch_s=70, wait_s=9), "reader", "patch by patch"),
        (profile(workers=8, decode_s=8, wait_s=9, bytes=1), "reader", "Too little"),
        (profile(**{**READING, "read_s": 35}), "reader", "local"),
        (profile(wait_s=1, encode_s=8, blocked_s=1), "encoder", "--precision bf16"),
        (profile(wait_s=1, encode_s=8, blocked_s=1, device="cpu"), "encoder", "--device cuda"),
        (
            profile(wait_s=1, encode_s=8, device="cpu", spare_bf16=True),
            "encoder",
            "pass --precision bf16",
        ),
        (profile(wait_s=1, encode_s=3, blocked_s=6), "writer", "--output"),
    ],
)
def test_the_verdict_names_who_holds_up_the_others_and_what_to_turn(given, bound, remedy):
    assert given.bound() == bound
    assert remedy in given.remedy()
    first, last = given.lines()
    assert first.startswith("100 tiles/s while encoding 1,000 tiles.")
    assert last == f"{bound}-bound. {given.remedy()}"


def test_shares_are_of_threads_and_of_the_wall():
    share = profile(**READING).shares()
    assert share["decode"] == pytest.approx(30 / 40)
    assert share["read"] + share["decode"] + share["cut"] + share["idle"] == pytest.approx(1)
    assert share["wait"] == pytest.approx(0.9)
    assert profile(decode_s=41).shares()["idle"] == 0
    feeding = profile(gpu_decode=True, read_s=10, decode_s=9, cut_s=0.5).shares()
    assert feeding["decode"] == pytest.approx(0.9)
    assert feeding["read"] + feeding["idle"] == pytest.approx(1)


def test_slides_add_up():
    both = profile(**READING)
    both.slides["b"] = EncodeTimes(tiles=500, seconds=10.0, write_s=1)
    assert (both.total.tiles, both.total.seconds, both.total.write_s) == (1500, 20.0, 1)
    plain = both.canonical()
    assert plain["total"]["tiles_per_s"] == 75
    assert set(plain["slides"]) == {"a", "b"}
    assert plain["bound"] == "reader"


@pytest.mark.parametrize("longest", ["wait_s", "encode_s", "blocked_s"])
def test_what_ended_before_it_was_under_way_gets_no_verdict(longest):
    """Publishing, which comes once a slide, outweighs all of a short run."""
    short = profile(seconds=1.6, **{longest: 1.5})
    assert short.bound() is None
    assert short.canonical()["bound"] is None
    first, last = short.lines()
    assert first.startswith("625 tiles/s")
    assert last == short.remedy()
    assert last.startswith("Too little was encoded to say")
    short.slides["b"] = short.slides["a"]
    assert short.bound() is not None


def test_a_cpu_without_bfloat16_is_not_told_of_it():
    assert "bf16" not in profile(encode_s=8, device="cpu").remedy()


def test_nothing_encoded_nothing_to_say():
    assert Profile(2, 2, "cpu").lines() == []
    plain = Profile(2, 2, "cpu").canonical()
    assert plain["total"]["tiles"] == 0
    assert plain["bound"] is None
    assert plain["remedy"] == ""
