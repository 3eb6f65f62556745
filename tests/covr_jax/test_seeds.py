from covr_jax import seeds


def test_numbers_depend_on_seed_stream_and_counters_alone():
    first = seeds.generator(1, "replay", 5).random(3)
    assert (first == seeds.generator(1, "replay", 5).random(3)).all()
    others = [seeds.generator(2, "replay", 5), seeds.generator(1, "episode", 5), seeds.generator(1, "replay", 6)]
    assert all((first != other.random(3)).any() for other in others)
    assert 0 <= seeds.integer(1, "evaluation", 2, 3) < 2**31
