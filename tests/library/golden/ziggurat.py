"""The strips of the ziggurat under f(x) = exp(-x²/2): Marsaglia & Tsang 2000, section 2, with 256 strips.

    python ziggurat.py > ziggurat.rs

Strips of equal area V are stacked, strip i from f(x[i]) up to f(x[i+1]) and x[i] wide, so
x[i] (f(x[i+1]) - f(x[i])) = V, which gives x[i+1]. The lowest one is a rectangle of width R and the tail beyond it.

R and V have as many digits as the paper's authors published, and every operation is rounded to a double: more digits would
change the last bits, and so the weights of every seed. exp and ln are correctly rounded here (those of a C library need not
be), the densities then to 18 decimals.
"""
from decimal import Decimal, getcontext
from math import sqrt

getcontext().prec = 60
R, V, STRIPS = 3.6541528853610088, 0.00492867323399, 256


def f(x):
    return float(Decimal(-x * x / 2).exp())


x = [V / f(R), R]
while len(x) < STRIPS:
    x.append(sqrt(-2 * float(Decimal(f(x[-1]) + V / x[-1]).ln())))
x.append(0.0)
densities = [float(f"{f(x):.18f}") for x in x]


def table(name, doc, values):
    print(f"\n/// {doc}\n#[rustfmt::skip]\npub(super) static {name}: [f64; {len(values)}] = [")
    for row in range(0, len(values), 5):
        print("    " + " ".join(f"{value!r}," for value in values[row:row + 5]))
    print("];")


print("//! The strips of the ziggurat, made by `tests/library/golden/ziggurat.py`.")
print(f"\n/// Where the tail begins.\npub(super) const R: f64 = {R};")
table("X", "x\\[i\\], half the width of strip i: x\\[0\\] = V/f(R), x\\[1\\] = R, x\\[256\\] = 0.", x)
table("F", "f(x\\[i\\]), the lower edge of strip i.", densities)
