"""What the real ais_bench calls of tqdm; the pinned image holds tqdm itself."""


def tqdm(items, **_):
    return items
