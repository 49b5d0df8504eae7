"""How far an accuracy on some images may lie from that on all images of the kind."""

from statistics import NormalDist


def accuracy_interval(right: int, images: int, confidence: float = 0.95) -> tuple[float, float]:
    """Between which shares the true one lies, with this confidence, where `right` of `images` are: Wilson's interval.

    E. B. Wilson, Journal of the American Statistical Association 1927: the shares that `right` does not contradict by
    the normal approximation. It holds for few images and near 0 and 1, where `share +- 2 errors` does not. (0, 1) of
    no image. That another seed would train another network is not in it.
    """
    if not images:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = right / images
    spread = z * (share * (1 - share) / images + (z / images / 2) ** 2) ** 0.5
    middle, whole = share + z**2 / images / 2, 1 + z**2 / images
    low, high = (middle - spread) / whole, (middle + spread) / whole
    return (0.0 if right == 0 else low), (1.0 if right == images else high)
