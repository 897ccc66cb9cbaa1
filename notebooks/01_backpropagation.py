# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
r"""
# Backpropagation through convolution, pooling and batch norm

A convolutional network learns by gradient descent, and gradient descent needs the
derivative of the loss by every filter. This notebook derives these derivatives with
pencil and paper, computes them with NumPy, draws where they flow, and checks each one
three ways: by finite differences, against the kernels of this package, and against
`jax.grad`. At the end a filter learns to detect edges, and LeNet learns to read digits,
with derivatives that were all derived by hand.

**You need** NumPy, the chain rule, and what a convolution layer computes (Géron,
*Hands-On Machine Learning*, 3rd edition, chapter 14; Chollet, *Deep Learning with
Python*, 2nd edition, chapter 8). You need not know JAX. Two facts are enough:
`jax.numpy` is NumPy with a compiler, and `jax.grad(f)` is the function that returns the
derivative of `f`. What else is needed of JAX is explained where it first appears. `K` is
this package's module of kernels: functions of arrays, each with its derivative.

**To run it**, in a checkout of this repository, with Python 3.11 or later:

```sh
python -m venv .venv && source .venv/bin/activate
pip install -e ".[notebooks]" jupyterlab
jupyter lab notebooks/01_backpropagation.ipynb
```

It takes about a minute on two CPU cores. [More on how to start it](README.md#run-one).
"""

# %%
import inspect
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from drawing import (
    COLORS,
    Grid,
    arrow,
    below,
    chain,
    frame,
    middle,
    pictures,
    row,
    use_quiet_style,
)
from sklearn.datasets import load_digits, load_sample_image

import cnn_jax
from cnn_jax import kernels as K
from cnn_jax.testing import assert_vjp_matches

use_quiet_style()
np.set_printoptions(precision=4, suppress=True)
# 64-bit numbers, as in NumPy, so that comparisons are exact to 15 digits.
jax.config.update("jax_enable_x64", True)
# The tests of this repository run the notebook in a smaller size.
SMOKE = bool(os.environ.get("CNN_JAX_SMOKE"))


def deviation(ours, theirs):
    """Returns the largest difference between two arrays."""
    return float(np.abs(np.asarray(ours) - np.asarray(theirs)).max())


# %% [markdown]
r"""
## 1. The chain rule on one number

Take the smallest network there is: one weight $w$, one bias $b$, one input $x$ with the
target $t$, and half the squared error as the loss.

$$
\begin{aligned}
p &= w\,x, & y &= p + b, \\
e &= y - t, & L &= \tfrac12 e^2
\end{aligned}
$$

The chain rule goes through the same line from right to left. Each step multiplies what
arrives by its own derivative:

$$
\begin{aligned}
\frac{dL}{de} &= e, & \frac{dL}{dy} &= \frac{dL}{de}\cdot 1, \\
\frac{dL}{dp} = \frac{dL}{db} &= \frac{dL}{dy}\cdot 1, & \frac{dL}{dw} &= \frac{dL}{dp}\cdot x
\end{aligned}
$$

That is backpropagation: **values flow forwards and are kept; gradients flow backwards,
and each operation multiplies by its local derivative.** The multiplication needs $x$
again, which is why training takes more memory than inference. In the picture each box is
an operation, with values on the upper arrows and gradients on the lower ones.
"""

# %%
x, t = 3.0, 2.0
w, b = 1.5, -0.5

p = w * x
y = p + b
e = y - t
loss = e**2 / 2

de = e
dy = de
dp, db = dy, dy
dw = dp * x

chain(
    ["× x", "+ b", "− t", "½( )²"],
    [f"w = {w:g}", f"p = {p:g}", f"y = {y:g}", f"e = {e:g}", f"L = {loss:g}"],
    [f"dw = {dw:g}", f"dp = {dp:g}", f"dy = {dy:g}", f"de = {de:g}", "1"],
)
plt.show()

# %% [markdown]
r"""
In this notebook `dw` always means $dL/dw$: the derivative of the loss by `w`.

Two independent checks. **Finite differences** move the weight a little and watch the
loss: $dL/dw \approx (L(w + h) - L(w - h)) / 2h$. **`jax.grad`** does what we just did, by
itself; `argnums` says by which arguments.
"""


# %%
def loss_of(w, b):
    """Returns the loss of the network with one weight."""
    return (w * x + b - t) ** 2 / 2


h = 1e-5
by_differences = (loss_of(w + h, b) - loss_of(w - h, b)) / (2 * h)
by_jax, by_jax_b = jax.grad(loss_of, argnums=(0, 1))(w, b)
print(f"dL/dw   by hand {dw}   finite differences {by_differences:.6f}   jax {by_jax}")
print(f"dL/db   by hand {db}                                jax {by_jax_b}")

# %% [markdown]
r"""
## 2. Convolution in one dimension is a matrix

A filter of three weights slides over six inputs. (What deep learning calls a convolution
is a correlation: the filter is not flipped.)

$$ y_p = \sum_{k=0}^{2} w_k\, x_{p+k} $$

Every $y_p$ is a weighted sum of inputs, so the layer is a matrix: $y = A x$. Each row
holds the same three weights, one place further to the right. Two things make it a
convolution and not a dense layer: most entries are zero, and the others are **shared**.

In the pictures inputs are blue, filters orange, outputs green and gradients purple. The
larger a number, the darker its cell; grey cells are zeros put there, or are cut off.
"""

# %%
x = np.array([1.0, 2, 0, 1, 3, 1])
w = np.array([1.0, -1, 2])
A = np.zeros((4, 6))
for p in range(4):
    A[p, p : p + 3] = w
y = A @ x

row(
    Grid(y[:, None], "y", "output"),
    "=",
    Grid(A, "A, made from w", "filter", faint=A == 0),
    "·",
    Grid(x[:, None], "x", "input"),
)
plt.show()

# %% [markdown]
r"""
Suppose the rest of the network has told us $dy = dL/dy$. Then

* **by the input**: $x_q$ enters $y_p$ with the weight $A_{pq}$, so
  $dx_q = \sum_p A_{pq}\, dy_p$, that is $dx = A^{\mathsf T} dy$. The backward pass of a
  linear layer is its transposed matrix.
* **by the filter**: $w_k$ enters *every* $y_p$, with the weight $x_{p+k}$. A shared
  weight collects from everywhere it was used: $dw_k = \sum_p x_{p+k}\, dy_p$.

Read a row of $A^{\mathsf T}$ below from left to right: the weights come in **reverse**
order. Multiplying by $A^{\mathsf T}$ slides the *flipped* filter over
$dy$, with zeros beyond its ends. And the filter's gradient is a correlation too: of $x$
with $dy$.
"""

# %%
dy = np.array([1.0, 0, -1, 2])
dx = A.T @ dy

row(
    Grid(dx[:, None], "dx", "gradient"),
    "=",
    Grid(A.T, "A transposed", "filter", faint=A.T == 0),
    "·",
    Grid(dy[:, None], "dy", "gradient"),
)
plt.show()

# %%
flipped = w[::-1]
padded = np.pad(dy, 2)
print("A.T @ dy                          ", dx)
print("flipped filter slid over padded dy", np.correlate(padded, flipped, "valid"))
print("x correlated with dy, dw          ", np.correlate(x, dy, "valid"))

# The kernels take a batch of images with channels. `None` adds an axis of length 1: x has
# the order NWC (batch, width, channels), w the order WIO (width, channels in and out).
# "VALID" is without padding: the filter stays inside the input.
one_d = {"strides": 1, "padding": "VALID"}
dx_kernel = K.conv_input_grad(
    dy[None, :, None], w[:, None, None], input_shape=(1, 6, 1), **one_d
)
dw_kernel = K.conv_filter_grad(
    x[None, :, None], dy[None, :, None], filter_shape=(3, 1, 1), **one_d
)
print("K.conv_input_grad                 ", np.ravel(dx_kernel))
print("K.conv_filter_grad                ", np.ravel(dw_kernel))

# %% [markdown]
r"""
## 3. Two dimensions: a 4×4 image, a 3×3 filter

The indices double, and nothing else changes:

$$ y_{pq} = b + \sum_{k,l} w_{kl}\; x_{p+k,\,q+l} $$

or $y = x \star w + b$ for short: the star is a correlation. This is all the code it takes.
In the picture the framed window of $x$ gives the framed output.
"""


# %%
def correlate(x, w):
    """Returns the sum of products under every placement of `w` on `x`."""
    rows, columns = w.shape
    return np.array(
        [
            [
                np.sum(x[p : p + rows, q : q + columns] * w)
                for q in range(x.shape[1] - columns + 1)
            ]
            for p in range(x.shape[0] - rows + 1)
        ]
    )


x = np.array([[1.0, 2, 0, 1], [0, 1, 3, 1], [2, 1, 0, 2], [1, 0, 2, 1]])
w = np.array([[1.0, 0, 2], [-1, 1, 0], [0, 2, -1]])
b = 1.0
target = np.array([[4.0, 8], [6, 5]])

y = correlate(x, w) + b
dy = y - target  # the derivative of the loss, half the sum of (y - target)^2

ax, corners = row(
    Grid(x, "x", "input"),
    "⋆",
    Grid(w, "w", "filter"),
    "+ 1 =",
    Grid(y, "y", "output", marked=[(0, 1)]),
    "−",
    Grid(target, "target", "plain"),
    "=",
    Grid(dy, "dy", "gradient"),
)
frame(ax, corners[0], slice(0, 3), slice(1, 4))
plt.show()
terms = [f"{a:g}·({c:g})" for a, c in zip(x[:3, 1:].flat, w.flat) if c]
print("y[0, 1] =", " + ".join(terms), f"+ {b:g} = {y[0, 1]:g}")

# %% [markdown]
r"""
### The bias gradient

The bias was added at every position, with the factor 1. So it collects all of $dy$:

$$ \frac{dL}{db} = \sum_{p,q} dy_{pq}\,\frac{\partial y_{pq}}{\partial b}
   = \sum_{p,q} dy_{pq} $$

### The filter gradient

The weight $w_{kl}$ was used once at every position $(p, q)$, and multiplied $x_{p+k,q+l}$
there:

$$ \frac{dL}{dw_{kl}} = \sum_{p,q} dy_{pq}\,\frac{\partial y_{pq}}{\partial w_{kl}}
   = \sum_{p,q} dy_{pq}\; x_{p+k,\,q+l} $$

Compare with the forward formula: **it is a correlation of $x$ with $dy$ as the filter.** A
4×4 input and a 2×2 "filter" give 3×3, the size of $w$. In words: the gradient of a
weight is large where the pixels that it saw and the errors that followed go together.
"""

# %%
db = dy.sum()
dw = correlate(x, dy)

ax, corners = row(
    Grid(x, "x", "input"),
    "⋆",
    Grid(dy, "dy", "gradient"),
    "=",
    Grid(dw, "dw", "gradient", marked=[(1, 2)]),
)
frame(ax, corners[0], slice(1, 3), slice(2, 4))
plt.show()
terms = [f"{a:g}·({c:g})" for a, c in zip(x[1:3, 2:4].flat, dy.flat)]
print("dw[1, 2] =", " + ".join(terms), f"= {dw[1, 2]:g}")
print(f"db = {db:g}")

# %% [markdown]
r"""
### The input gradient

An input pixel $x_{ij}$ was seen by up to nine windows. In the window at $(p, q)$ it met
the weight $w_{i-p,\,j-q}$, so

$$ \frac{dL}{dx_{ij}} = \sum_{p,q} dy_{pq}\; w_{i-p,\,j-q} $$

There are two ways to read this sum.

**Scatter.** Each entry of $dy$ sends a copy of the filter, multiplied by itself, to the
nine pixels that it came from. What overlaps is added:
"""

# %%
copies = []
for p, q in np.ndindex(2, 2):
    copy = np.zeros((4, 4))
    copy[p : p + 3, q : q + 3] = dy[p, q] * w
    copies.append(copy)
dx = sum(copies)

inside = [np.zeros((4, 4), bool) for _ in copies]
for (p, q), mask in zip(np.ndindex(2, 2), inside):
    mask[p : p + 3, q : q + 3] = True
ax, corners = row(
    Grid(copies[0], "dy[0, 0] · w", "gradient", faint=~inside[0]),
    "+",
    Grid(copies[1], "dy[0, 1] · w", "gradient", faint=~inside[1]),
    "+",
    Grid(copies[2], "dy[1, 0] · w", "gradient", faint=~inside[2]),
    "+",
    Grid(copies[3], "dy[1, 1] · w", "gradient", faint=~inside[3]),
)
for (p, q), corner in zip(np.ndindex(2, 2), corners):
    frame(ax, corner, slice(p, p + 3), slice(q, q + 3), COLORS["gradient"])
plt.show()

# %% [markdown]
r"""
**Gather.** Substitute $k = i - p$ and $l = j - q$; then the sum runs over the filter, and
$dy$ is read at $(i-k,\, j-l)$: the index of $w$ rises while that of $dy$ falls. That is a
correlation with the filter **flipped in both directions**. At the border some of the
windows do not exist; zeros around $dy$ stand for them ("full" padding, one less than the
filter's size).
"""

# %%
full = np.pad(dy, 2)
is_padding = np.pad(np.zeros((2, 2), bool), 2, constant_values=True)
gathered = correlate(full, w[::-1, ::-1])

ax, corners = row(
    Grid(full, "dy, padded", "gradient", faint=is_padding),
    "⋆",
    Grid(w[::-1, ::-1], "w, flipped", "filter"),
    "=",
    Grid(gathered, "dx", "gradient", marked=[(1, 2)]),
)
frame(ax, corners[0], slice(1, 4), slice(2, 5))
plt.show()
print("scatter and gather differ by", deviation(dx, gathered))

# %% [markdown]
r"""
### Is it right?

A derivation is a claim, so we test it. First by finite differences, one entry at a time:
slow, but it knows nothing of our formulas. Then against this package: `K.textbook` has the
same operations as NumPy loops, to be read; `K` has the kernels that train networks. Last,
`jax.grad`.
"""


# %%
def numerical_grad(f, array, h=1e-5):
    """Returns the derivative of `f` by every entry of an array, by differences."""
    grad = np.zeros(array.shape)
    for index in np.ndindex(array.shape):
        up, down = array.copy(), array.copy()
        up[index] += h
        down[index] -= h
        grad[index] = (f(up) - f(down)) / (2 * h)
    return grad


def half_squared_error(x, w, b):
    """Returns the loss of the example."""
    return np.sum((correlate(x, w) + b - target) ** 2) / 2


def loss_with_kernels(x, w, b):
    """Returns the same loss, of arrays of JAX."""
    y = K.conv(x[None, ..., None], w[..., None, None], padding="VALID")[0, ..., 0] + b
    return jnp.sum((y - target) ** 2) / 2


# %%
# NHWC: batch, height, width, channels; HWIO: height, width, channels in and out.
images, filters = x[None, ..., None], w[..., None, None]
errors = dy[None, ..., None]
valid = {"padding": "VALID"}
by_kernel = {
    "dx": K.conv_input_grad(errors, filters, input_shape=images.shape, **valid),
    "dw": K.conv_filter_grad(images, errors, filter_shape=filters.shape, **valid),
    "db": K.conv_bias_grad(errors),
}
by_loops = {
    "dx": K.textbook.conv_input_grad(
        errors, filters, input_shape=images.shape, **valid
    ),
    "dw": K.textbook.conv_filter_grad(
        images, errors, filter_shape=filters.shape, **valid
    ),
    "db": K.textbook.conv_bias_grad(errors),
}
by_differences = {
    "dx": numerical_grad(lambda x: half_squared_error(x, w, b), x),
    "dw": numerical_grad(lambda w: half_squared_error(x, w, b), w),
    "db": numerical_grad(lambda b: half_squared_error(x, w, b), np.array(b)),
}
by_jax = dict(
    zip(("dx", "dw", "db"), jax.grad(loss_with_kernels, argnums=(0, 1, 2))(x, w, b))
)

print("largest difference from the derivation")
print("      finite differences   K.textbook   K (kernels)   jax.grad")
for name, ours in {"dx": dx, "dw": dw, "db": db}.items():
    others = [d[name] for d in (by_differences, by_loops, by_kernel, by_jax)]
    a, b_, c, d = (deviation(ours, np.reshape(o, np.shape(ours))) for o in others)
    print(f"{name} {a:18.1e} {b_:16.1e} {c:13.1e} {d:10.1e}")

# %% [markdown]
r"""
### Channels and a batch

With input channels $i$, output channels $o$ and examples $n$, each sum runs over the
indices that the result does not have:

$$
\begin{aligned}
y_{n,pq,o} &= b_o + \sum_{k,l,i} x_{n,\,p+k,\,q+l,\,i}\; w_{kl,i,o} \\
dw_{kl,i,o} &= \sum_{n,p,q} x_{n,\,p+k,\,q+l,\,i}\; dy_{n,pq,o} \\
dx_{n,rs,i} &= \sum_{k,l,o} dy_{n,\,r-k,\,s-l,\,o}\; w_{kl,i,o} \\
db_o &= \sum_{n,p,q} dy_{n,pq,o}
\end{aligned}
$$

Forwards sums over the *input* channels; backwards sums over the *output* channels; the
filter's gradient sums over the *batch*.
"""

# %% [markdown]
r"""
## 4. Strides and padding

A stride of $s = 2$ computes every second output and throws the others away. What is thrown
away has no influence on the loss: its gradient is **zero**. So go back through the
throwing away first, by putting zeros between the entries of $dy$ (some call this a
*dilated* or *fractionally strided* gradient), and then do as before. Padding adds zeros
around $x$; their gradient is computed like any pixel's, and cut off.

$$
\begin{aligned}
u &= dy \text{ with } s-1 \text{ zeros between its entries} \\
dw &= \operatorname{pad}(x) \star u \\
dx &= \operatorname{crop}\bigl(\operatorname{pad}(u) \star \operatorname{flip}(w)\bigr)
\end{aligned}
$$

Here $\operatorname{pad}(x)$ is the layer's own padding, and $\operatorname{pad}(u)$ the full
one, as in section 3.
"""


# %%
def spread(dy, stride):
    """Puts `stride - 1` zeros between the entries of a matrix."""
    rows, columns = ((size - 1) * stride + 1 for size in dy.shape)
    u = np.zeros((rows, columns))
    u[::stride, ::stride] = dy
    return u


x5 = np.array(
    [
        [1.0, 0, 2, 1, 0],
        [2, 1, 0, 1, 1],
        [0, 3, 1, 0, 2],
        [1, 0, 1, 2, 0],
        [0, 1, 2, 0, 1],
    ]
)
dy5 = np.array([[1.0, -1, 2], [0, 2, 1], [-2, 1, 1]])
padded = np.pad(x5, 1)
u = spread(dy5, 2)
between = spread(np.ones((3, 3)), 2) == 0
border = np.pad(np.zeros((5, 5), bool), 1, constant_values=True)
dw5 = correlate(padded, u)

row(
    Grid(padded, "x, padded by 1", "input", faint=border),
    "⋆",
    Grid(u, "dy, spread by 2", "gradient", faint=between),
    "=",
    Grid(dw5, "dw", "gradient"),
)
plt.show()

# %%
wide = np.pad(u, 2)
wide_zeros = np.pad(between, 2, constant_values=True)
dx7 = correlate(wide, w[::-1, ::-1])
dx5 = dx7[1:-1, 1:-1]

ax, corners = row(
    Grid(wide, "dy, spread and padded", "gradient", faint=wide_zeros),
    "⋆",
    Grid(w[::-1, ::-1], "w, flipped", "filter"),
    "=",
    Grid(dx7, "dx, with border cut off", "gradient", faint=border),
)
frame(ax, corners[-1], slice(1, 6), slice(1, 6), COLORS["gradient"])
plt.show()

geometry = {"strides": 2, "padding": 1}
images5, errors5 = x5[None, ..., None], dy5[None, ..., None]
print(
    "dw and dx differ from the kernels' by",
    deviation(
        dw5[..., None, None],
        K.conv_filter_grad(images5, errors5, filter_shape=(3, 3, 1, 1), **geometry),
    ),
    deviation(
        dx5[None, ..., None],
        K.conv_input_grad(errors5, filters, input_shape=images5.shape, **geometry),
    ),
)
zeros = np.mean(spread(np.ones((100, 100)), 2) == 0)
print(f"zeros in a 100x100 dy, spread by 2: {zeros:.0%}")
for size in (5, 6):
    sides = K.conv(np.zeros((1, size, size, 1)), filters, **geometry).shape[1:3]
    print(f"an input of {size}x{size} has an output of {sides[0]}x{sides[1]}")

# %% [markdown]
r"""
Most factors in the second picture are zeros that were put there. Multiplying by them is
wasted work, three quarters of it for stride 2. Libraries avoid it: on a CPU, this
package's kernel sorts the output by its *phase* (even or odd row, even or odd column) and
uses only the taps that meet an entry of $dy$.

There is one trap: with a stride, several inputs have the same output size. With this
filter, stride and padding, 5×5 and 6×6 both give 3×3. So `conv_input_grad` must be **told**
the input's shape; the output's does not say it.
"""

# %% [markdown]
r"""
## 5. Pooling: where the gradient goes

**Max-pooling** passes on the largest of each window: $y_p = x_{k^*}$, where $k^*$ is the
place of the largest entry of window $p$. Move $x_{k^*}$ a little and $y_p$ moves as much;
move one of the others and nothing happens. So the local derivative is 1 for the winner and
0 for the rest: **the whole gradient goes to the winner**, and the backward pass needs only
to know who won.

**Average pooling** is linear with equal weights, so each gets an equal share:
$dx_q = dy_p / 4$ for the four entries $q$ of window $p$.
"""

# %%
x = np.array([[1.0, 5, 2, 2], [3, 4, 2, 2], [7, 0, 1, 6], [2, 1, 9, 3]])
dy = np.array([[1.0, 2], [-3, 4]])
image, errors = x[None, ..., None], dy[None, ..., None]
y = np.asarray(K.max_pool(image, 2))[0, ..., 0]
dx = np.asarray(K.max_pool_grad(image, errors, 2))[0, ..., 0]
shared = np.asarray(K.avg_pool_grad(errors, 2, input_shape=image.shape))[0, ..., 0]
winners = [(0, 1), (0, 2), (2, 0), (3, 2)]

ax, corners = row(
    Grid(x, "x, winners framed", "input", marked=winners),
    "→",
    Grid(dy, "dy", "gradient"),
    "  ",
    Grid(dx, "dx of max-pooling", "gradient", faint=dx == 0),
    " ",
    Grid(shared, "dx of average pooling", "gradient", digits=2),
)
for source, winner in zip(np.ndindex(2, 2), winners):
    arrow(ax, below(corners[1], source), middle(corners[2], winner))
for left, top in (corners[0], corners[2], corners[3]):
    ax.plot([left + 2, left + 2], [top, top + 4], color="white", linewidth=3, zorder=2)
    ax.plot([left, left + 4], [top + 2, top + 2], color="white", linewidth=3, zorder=2)
plt.show()

# %% [markdown]
r"""
**Ties.** The top right window holds four equal values. There the maximum has no
derivative, and a rule must choose: these kernels, like XLA and PyTorch, take the first in
row-major order. Ties are not rare: after a ReLU many windows are all zeros, as section 8
counts. (Sharing the gradient among the winners would also be a valid rule; what matters is
that a library keeps to one.)

**Overlapping windows.** With a 3×3 window and stride 2, as in AlexNet and ResNet, one
pixel can win several windows. It collects from all of them, as a shared weight does.
"""

# %%
x = np.array(
    [
        [1.0, 0, 2, 1, 0],
        [0, 1, 1, 2, 1],
        [2, 1, 9, 0, 3],
        [0, 1, 0, 2, 1],
        [1, 0, 3, 1, 0],
    ]
)
dy = np.array([[1.0, 2], [3, 4]])
image, errors = x[None, ..., None], dy[None, ..., None]
dx = np.asarray(K.max_pool_grad(image, errors, 3, strides=2))[0, ..., 0]
ax, corners = row(
    Grid(x, "x", "input", marked=[(2, 2)]),
    "→",
    Grid(dy, "dy", "gradient"),
    "  ",
    Grid(dx, "dx: 1 + 2 + 3 + 4", "gradient", faint=dx == 0),
)
for source in np.ndindex(2, 2):
    arrow(ax, below(corners[1], source), middle(corners[2], (2, 2)))
plt.show()

# `jax.vjp(f, x)` returns f(x), and a function that turns dy into one gradient for each
# argument of f. `K.autodiff` has the same operations with the derivatives that JAX finds.
_, vjp = jax.vjp(lambda x: K.autodiff.max_pool(x, 3, strides=2), image)
(by_jax,) = vjp(errors)
print("JAX's own derivative differs by", deviation(dx, by_jax[0, ..., 0]))

# %% [markdown]
r"""
On real features the difference is plain to see. Below, a digit is pooled and the loss is
the sum of the pooled map (black is a gradient of 0, white of 1 and more). Max-pooling sends the
gradient to few pixels, most of them on the stroke; average pooling spreads it evenly, over
the background too.
"""

# %%
digit = load_digits().images[0] / 16
image = digit[None, ..., None]
max_flow = jax.grad(lambda x: K.max_pool(x, 2).sum())(image)[0, ..., 0]
overlapping = {"strides": 2, "padding": 1}
overlap_flow = jax.grad(lambda x: K.max_pool(x, 3, **overlapping).sum())(image)
overlap_flow = overlap_flow[0, ..., 0]
avg_flow = jax.grad(lambda x: K.avg_pool(x, 2).sum())(image)[0, ..., 0]
pictures(
    [digit, max_flow, overlap_flow, avg_flow],
    ["digit", "max 2×2", "max 3×3, stride 2", "average 2×2"],
    size=1.7,
    scale=1.0,
)
plt.show()

# %% [markdown]
r"""
## 6. Batch norm: three ways for one gradient

For each channel, over the $N$ entries of a batch (all examples and positions):

$$
\begin{aligned}
\mu &= \frac1N\sum_j x_j, & v &= \frac1N\sum_j (x_j-\mu)^2, \\
r &= \frac{1}{\sqrt{v+\varepsilon}}, & \hat x_j &= r\,(x_j-\mu), \\
y_j &= \gamma\,\hat x_j + \beta
\end{aligned}
$$

The small number $\varepsilon$ keeps $r$ finite where all entries are equal. Scale $\gamma$
and bias $\beta$ are used at every entry and collect from all:
$d\beta = \sum_j dy_j$ and $d\gamma = \sum_j dy_j\,\hat x_j$.

The input is harder, because **$x_j$ changes every output**: itself directly, and all
others through the mean and the variance. Write $g_j = \gamma\,dy_j$ for the gradient that
arrives at $\hat x_j$, and follow the three ways.

1. **Directly**: $\partial\hat x_j/\partial x_j = r$ with $\mu$ and $v$ held fixed.
   Contribution: $r\,g_j$.

2. **Through the mean**: $\partial\mu/\partial x_j = 1/N$, and $\mu$ lowers every
   $\hat x_i$ at the rate $r$. Contribution:
   $$ \frac1N\sum_i (-r)\,g_i = -r\,\operatorname{mean}(g) $$
   (The mean also stands in $v$, but $\partial v/\partial\mu = -\frac2N\sum_j(x_j-\mu) = 0$.)

3. **Through the variance**: $\partial v/\partial x_j = \frac2N (x_j-\mu)$, and
   $\partial\hat x_i/\partial v = -\tfrac12 (v+\varepsilon)^{-3/2}(x_i-\mu)
   = -\tfrac12 r^2\,\hat x_i$. Contribution:
   $$
   \begin{aligned}
   & \frac2N (x_j-\mu)\sum_i\Bigl(-\tfrac12 r^2\,\hat x_i\Bigr)g_i \\
   &= -r\,\hat x_j\,\operatorname{mean}(g\,\hat x)
   \end{aligned}
   $$

Together:

$$
\boxed{\;dx_j = r\,\bigl(g_j - \operatorname{mean}(g)
  - \hat x_j\,\operatorname{mean}(g\,\hat x)\bigr)\;}
$$
"""

# %%
epsilon = 1e-5
x = np.array([1.0, 2.0, 4.0, 5.5, 0.5, 3.0])
dy = np.array([1.0, -0.5, 2.0, 2.5, -0.5, -1.0])
gamma, beta = 1.5, 0.2

mean, var = x.mean(), x.var()
r = 1 / np.sqrt(var + epsilon)
xhat = (x - mean) * r
g = gamma * dy
ways = {
    "directly": r * g,
    "through the mean": np.full(6, -r * g.mean()),
    "through the variance": -r * xhat * (g * xhat).mean(),
}
dx = sum(ways.values())

figure, ax = plt.subplots(figsize=(7, 3), layout="constrained")
positions = np.arange(6)
colors = (COLORS["input"], COLORS["filter"], COLORS["output"])
for number, ((name, part), color) in enumerate(zip(ways.items(), colors)):
    ax.bar(positions + 0.2 * number - 0.3, part, 0.2, label=name, color=color)
ax.bar(positions + 0.3, dx, 0.2, label="sum: dx", color=COLORS["gradient"])
ax.axhline(0, color="#24292f", linewidth=0.8)
ax.set_xticks(positions, [f"x = {value:g}" for value in x])
ax.set_ylabel("gradient")
ax.set_title("The gradient of six entries of one channel, by the way it takes")
ax.legend(ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.12), fontsize=9)
ax.grid(axis="x", visible=False)
plt.show()


# %%
def normalise(x):
    """Returns y of a batch norm with one channel."""
    return K.batch_norm(
        x[:, None], jnp.array([gamma]), jnp.array([beta]), epsilon=epsilon
    )[0][:, 0]


_, pull_back = jax.vjp(normalise, jnp.asarray(x))
(by_kernel,) = pull_back(jnp.asarray(dy))
zero = np.zeros(1)
by_loops, dgamma, dbeta = K.textbook.batch_norm_grad(
    x[:, None], np.array([gamma]), dy[:, None], zero, zero, epsilon=epsilon
)


def scalar_loss(x):
    """Returns a loss whose derivative by y is dy."""
    y = (x - x.mean()) / np.sqrt(x.var() + epsilon) * gamma + beta
    return np.sum(y * dy)


print("dx", dx)
print(
    "finite differences differ by",
    f"{deviation(dx, numerical_grad(scalar_loss, x)):.1e}",
)
print("K.textbook differs by       ", f"{deviation(dx, by_loops[:, 0]):.1e}")
print("the kernel differs by       ", f"{deviation(dx, by_kernel):.1e}")
print("dgamma", (dy * xhat).sum(), dgamma[0])
print("dbeta ", dy.sum(), dbeta[0])

# %% [markdown]
r"""
The formula has a meaning. Batch norm forgets the mean and the scale of its input, so
changing only these cannot change the loss. The two subtractions remove from $g$ just
those two directions: **$dx$ always sums to zero, and is orthogonal to $\hat x$** (up to
$\varepsilon$). One consequence is worth remembering: a bias in front of a batch norm has
gradient zero. It only shifts the mean. That is why such convolutions are built without
one.
"""

# %%
print(f"sum of dx: {dx.sum():.1e}    sum of dx * xhat: {(dx * xhat).sum():.1e}")

# %% [markdown]
r"""
## 7. How the package writes this down

In JAX a function gets its own derivative by `jax.custom_vjp`. "VJP" is the
vector-Jacobian product, $dy \mapsto dy^{\mathsf T}\,\partial y/\partial x$: what a backward
pass computes. (JAX's pages call $dy$ a *cotangent*.) Two functions belong to it: the forward
rule returns the output and what must be kept, the *residuals*; the backward rule takes
these and $dy$, and returns one gradient for each argument, except for `nondiff_argnums`,
the settings that no gradient is wanted of. This is the convolution that trains every
network here:
"""

# %%
conv_source = inspect.getsource(inspect.getmodule(inspect.unwrap(K.conv)))
begin = conv_source.index("@functools.partial(custom_vjp")
end = conv_source.index("@kernel(autodiff.conv_input_grad)")
print(conv_source[begin:end].strip())

# %% [markdown]
r"""
The functions it calls, `platforms.conv_filter_grad` and so on, compute our formulas by the
fastest way on a platform. Next to the code stands the derivation; read it with
`help(cnn_jax.kernels.conv)`, or begin at
[`cnn_jax/kernels/conv.py`](../cnn_jax/kernels/conv.py) and [Kernels](../docs/kernels.md).

A hand-written derivative can be wrong and train all the same, only worse. So every kernel
is tested against the same operation in plain JAX (`K.autodiff`), whose derivative JAX
finds by itself. The same test is yours to use; here for a convolution in two *groups*, each
of which has half of the input channels and makes half of the output's:
"""

# %%
generator = np.random.default_rng(0)
images = jnp.asarray(generator.normal(size=(2, 9, 7, 4)))
filters = jnp.asarray(generator.normal(size=(3, 3, 2, 6)))
bias = jnp.asarray(generator.normal(size=6))


def ours(x, w, b):
    """Returns a convolution with stride 2, in two groups, by the kernel."""
    return K.conv(x, w, b, strides=2, groups=2)


def reference(x, w, b):
    """Returns the same, with JAX's derivative."""
    return K.autodiff.conv(x, w, b, strides=2, groups=2)


assert_vjp_matches(ours, reference, images, filters, bias, rtol=1e-12)
print("the kernel's output and its three gradients equal JAX's to 12 digits")

# %% [markdown]
r"""
## 8. A whole network by hand

Convolution, batch norm, ReLU, max-pooling, a dense layer and softmax cross-entropy, on
sixteen digits. The forward pass keeps what each layer needs; the backward pass goes
through the layers in reverse, each of them one line from above. Two more local
derivatives are needed: a ReLU lets the gradient through where its input was positive, and
softmax with cross-entropy has the simplest derivative of all, probabilities minus the
one-hot label.
"""

# %%
digits = load_digits()
# Sixteen images of 8x8 with one channel: NHWC.
images = (digits.images[:16] / 16)[..., None]
labels = digits.target[:16]
params = {
    "conv/w": generator.normal(size=(3, 3, 1, 4)) * 0.4,
    "conv/b": np.zeros(4),
    "norm/scale": np.ones(4),
    "norm/bias": np.zeros(4),
    "dense/w": generator.normal(size=(64, 10)) * 0.2,
    "dense/b": np.zeros(10),
}


# %%
def forward(params, x):
    """Returns the loss, and every value that the backward pass needs."""
    kept = {"x": x}
    # Padded to the size of the input ("SAME"), as kernels do unless told otherwise.
    kept["z1"] = np.asarray(K.conv(x, params["conv/w"], params["conv/b"]))
    mean, var = (f(kept["z1"], axis=(0, 1, 2)) for f in (np.mean, np.var))
    kept["r"] = 1 / np.sqrt(var + epsilon)
    kept["xhat"] = (kept["z1"] - mean) * kept["r"]
    kept["z2"] = params["norm/scale"] * kept["xhat"] + params["norm/bias"]
    kept["a"] = np.maximum(kept["z2"], 0)
    kept["pooled"] = np.asarray(K.max_pool(kept["a"], 2))
    kept["flat"] = kept["pooled"].reshape(len(x), -1)
    logits = kept["flat"] @ params["dense/w"] + params["dense/b"]
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    kept["probabilities"] = exponentials / exponentials.sum(axis=1, keepdims=True)
    loss = -np.log(kept["probabilities"][np.arange(len(x)), labels]).mean()
    return loss, kept


# %%
def backward(params, kept):
    """Returns the gradient by every parameter, and by every value on the way."""
    grads, flow = {}, {}
    dlogits = (kept["probabilities"] - np.eye(10)[labels]) / len(labels)
    # Dense: the matrix transposed, and inputs against errors.
    grads["dense/w"] = kept["flat"].T @ dlogits
    grads["dense/b"] = dlogits.sum(axis=0)
    flow["pooled"] = (dlogits @ params["dense/w"].T).reshape(kept["pooled"].shape)
    # Max-pooling: to the winners.
    flow["a"] = np.asarray(K.max_pool_grad(kept["a"], flow["pooled"], 2))
    # ReLU: where its input was positive.
    flow["z2"] = flow["a"] * (kept["z2"] > 0)
    # Batch norm: the formula in the box.
    axes = (0, 1, 2)
    grads["norm/scale"] = (flow["z2"] * kept["xhat"]).sum(axis=axes)
    grads["norm/bias"] = flow["z2"].sum(axis=axes)
    g = params["norm/scale"] * flow["z2"]
    along_xhat = kept["xhat"] * (g * kept["xhat"]).mean(axis=axes)
    flow["z1"] = kept["r"] * (g - g.mean(axis=axes) - along_xhat)
    # Convolution: the three gradients.
    w = params["conv/w"]
    grads["conv/w"] = np.asarray(
        K.conv_filter_grad(kept["x"], flow["z1"], filter_shape=w.shape)
    )
    grads["conv/b"] = np.asarray(K.conv_bias_grad(flow["z1"]))
    flow["x"] = np.asarray(
        K.conv_input_grad(flow["z1"], w, input_shape=kept["x"].shape)
    )
    return grads, flow


loss, kept = forward(params, images)
grads, flow = backward(params, kept)


# %% [markdown]
r"""
The same network in JAX takes ten lines, because it needs no backward pass. `K.autodiff` is
plain JAX, with none of our derivatives inside, so the comparison is a fair one.
"""


# %%
def loss_in_jax(params, x):
    """Returns the loss of the same network."""
    z = K.autodiff.conv(x, params["conv/w"], params["conv/b"])
    z, _, _ = K.autodiff.batch_norm(
        z, params["norm/scale"], params["norm/bias"], epsilon=epsilon
    )
    pooled = K.autodiff.max_pool(jax.nn.relu(z), 2)
    logits = pooled.reshape(len(x), -1) @ params["dense/w"] + params["dense/b"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


# The derivative by a dictionary of arrays is a dictionary of the same names.
on_device = {name: jnp.asarray(value) for name, value in params.items()}
loss_jax, grads_jax = jax.value_and_grad(loss_in_jax)(on_device, jnp.asarray(images))
print(f"loss by hand {loss:.12f}\nloss by JAX  {loss_jax:.12f}\n")
print("parameter    shape            largest gradient   difference from JAX")
for name, grad in grads.items():
    difference = deviation(grad, grads_jax[name])
    print(f"{name:12} {grad.shape!s:16} {np.abs(grad).max():16.4f} {difference:20.1e}")
all_zero = np.mean(kept["pooled"] == 0)
print(f"\nwindows of the max-pooling that hold nothing but zeros: {all_zero:.0%}")

# %% [markdown]
r"""
All agree to rounding. The gradient of `conv/b` is zero, as section 6 promised. Now follow
one digit: above, the values of one channel; below, the gradient that comes back to each of
them (red raises the loss, blue lowers it, each map on its own scale). Read the lower row
from right to left: pooling makes the gradient sparse, the ReLU cuts what was negative,
batch norm fills the zeros again because every entry moves the mean, and the flipped filter
carries it to the pixels.
"""

# %%
example = 0
channel = int(np.abs(flow["pooled"][example]).sum(axis=(0, 1)).argmax())
stages = [("x", 0), ("z1", channel), ("z2", channel), ("a", channel)]
stages.append(("pooled", channel))
names = ["image", "convolution", "batch norm", "ReLU", "max-pooling"]
figure, axes = plt.subplots(2, 5, figsize=(9, 4), layout="constrained")
for column, ((stage, c), name) in enumerate(zip(stages, names)):
    value, gradient = kept[stage][example, ..., c], flow[stage][example, ..., c]
    strongest = np.abs(gradient).max()
    axes[0, column].imshow(value, cmap="gray")
    axes[1, column].imshow(gradient, cmap="RdBu_r", vmin=-strongest, vmax=strongest)
    axes[0, column].set_title(name, loc="center")
    for ax in axes[:, column]:
        ax.set_xticks([])
        ax.set_yticks([])
        ax.grid(visible=False)
        ax.spines[:].set_visible(False)
axes[0, 0].set_ylabel("values →")
axes[1, 0].set_ylabel("← gradients", color=COLORS["gradient"])
plt.show()

# %% [markdown]
r"""
## 9. A filter learns to detect edges

Now use the gradient. The Sobel filters respond to vertical and to horizontal edges; they
were designed by hand. Can gradient descent find them? We show a photograph and the edges
that the Sobel filters find in it, start from random filters, and repeat

$$ w \leftarrow w - \eta\, dw, \qquad dw = \texttt{conv\_filter\_grad}(x,\; y - t) / N $$

for both filters at once, with $\eta$ the learning rate, $t$ the edges to be found and $N$
their number of pixels. We do it twice: plainly, and with *momentum*, where each step adds
nine tenths of the step before. Nothing tells the filters what an edge is. (`jax.jit` below
compiles a function when it is first called, which makes hundreds of steps quick.)
"""

# %%
photograph = load_sample_image("china.jpg")[100:292, 180:436].mean(axis=-1) / 255
x = jnp.asarray(photograph - photograph.mean())[None, ..., None]
sobel = np.array([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]]) / 4
sobel = np.stack([sobel, sobel.T], axis=-1)[:, :, None]  # HWIO, two filters
target = K.conv(x, sobel, padding="VALID")


RATE = 1.5


@jax.jit
def descend(w, velocity, momentum):
    """Takes one step of gradient descent and returns the loss before it, too."""
    error = K.conv(x, w, padding="VALID") - target
    dw = K.conv_filter_grad(x, error, filter_shape=w.shape, padding="VALID")
    velocity = momentum * velocity - RATE * dw / error[..., 0].size
    return w + velocity, velocity, jnp.mean(error**2)


def learn(start, num_steps, momentum):
    """Returns the filters and the loss before each step, and the last filters."""
    w, velocity = jnp.asarray(start), jnp.zeros(start.shape)
    filters, losses = [], []
    for _ in range(num_steps):
        filters.append(np.asarray(w))
        w, velocity, loss = descend(w, velocity, momentum)
        losses.append(float(loss))
    return [*filters, np.asarray(w)], losses


# %% [markdown]
r"""
The filters on their way: red is positive, blue negative, white zero.
"""

# %%
num_steps = 60 if SMOKE else 400
start = generator.normal(size=sobel.shape) * 0.5
history, losses = learn(start, num_steps, momentum=0.9)
plain_history, plain_losses = learn(start, num_steps, momentum=0.0)

shown = [0, 3, 10, 20, 30, 40, num_steps]
for number, kind in enumerate(("vertical edges", "horizontal edges")):
    filters = [history[step][:, :, 0, number] for step in shown]
    filters.append(sobel[:, :, 0, number])
    figure = pictures(
        filters,
        [f"step {step}" for step in shown] + ["Sobel"],
        signed=True,
        size=1.05,
    )
    figure.suptitle(f"The filter for {kind}", size=10)
    plt.show()

# %%
figure, ax = plt.subplots(figsize=(7, 2.6), layout="constrained")
ax.semilogy(plain_losses, color=COLORS["plain"], label="plain")
ax.semilogy(losses, color=COLORS["gradient"], label="with momentum 0.9")
ax.legend()
ax.set_xlabel("step")
ax.set_ylabel("mean squared error")
plt.show()
for name, filters in {"plain": plain_history, "with momentum": history}.items():
    difference = deviation(filters[-1], sobel)
    print(f"largest difference from the Sobel filters, {name}: {difference:.1e}")

patches = np.lib.stride_tricks.sliding_window_view(np.asarray(x)[0, ..., 0], (3, 3))
patches = patches.reshape(-1, 9)
# The loss is quadratic in w; this is its matrix of second derivatives.
curvatures = np.linalg.eigvalsh(patches.T @ patches / len(patches))
print(f"strongest curvature over weakest: {curvatures[-1] / curvatures[0]:.0f}")


# %%
def edges(w):
    """Returns the strength of edges by both filters."""
    return np.sqrt(np.square(K.conv(x, w, padding="VALID")).sum(axis=-1))[0]


pictures(
    [photograph, edges(history[0]), edges(history[-1])],
    ["photograph", "random filters", "learned filters"],
    size=2.9,
)
plt.show()

# %% [markdown]
r"""
Plain gradient descent falls fast, then slowly. Neighbouring pixels are nearly equal, so
what is common to all nine weights is learned in a few steps, and the differences between
them, which make an edge detector, take hundreds: along one direction the loss curves
hundreds of times as strongly as along another, as printed above. Momentum adds up the
small steps that keep their direction. Normalising what a layer sees helps as well, which is
one reason for batch norm.
"""

# %% [markdown]
r"""
## 10. LeNet reads digits

Last, LeNet-5 of 1998 in this package: its convolutions, average pooling and dense layers
are the kernels with the derivatives above, and `jax.value_and_grad` only chains them. The
images are scikit-learn's 8×8 digits, enlarged to LeNet's 32×32.

Three things are new. The network is written in Flax: an object that holds no parameters.
`model.init(key, images)` draws them, a dictionary of dictionaries, from a random key, and
`model.apply({"params": params}, images)` computes with them. The update rule is Optax's:
Adam takes the gradients and its own state, and returns what to add to the parameters and
the next state. And `has_aux=True` says that a function returns something beside its loss,
here the accuracy, which is handed through.
"""

# %%
order = np.random.default_rng(1).permutation(len(digits.images))
all_images = jax.image.resize(
    jnp.asarray(digits.images / 8 - 1, jnp.float32)[..., None],
    (1797, 32, 32, 1),
    "linear",
)[order]
all_labels = jnp.asarray(digits.target[order])
train_images, test_images = all_images[:1440], all_images[1440:]
train_labels, test_labels = all_labels[:1440], all_labels[1440:]

model = cnn_jax.create_model("lenet5")
start = model.init(jax.random.key(0), train_images[:1])["params"]
optimizer = optax.adam(2e-3)


def mean_loss(params, images, labels):
    """Returns the loss of a batch, and its accuracy."""
    logits = model.apply({"params": params}, images)
    loss = K.softmax_cross_entropy(logits, labels).mean()
    return loss, (logits.argmax(axis=-1) == labels).mean()


@jax.jit
def train_step(params, state, images, labels):
    """Takes one step of Adam."""
    gradient_fn = jax.value_and_grad(mean_loss, has_aux=True)
    (loss, accuracy), grads = gradient_fn(params, images, labels)
    updates, state = optimizer.update(grads, state, params)
    return optax.apply_updates(params, updates), state, loss, accuracy


program = str(jax.make_jaxpr(mean_loss)(start, train_images[:4], train_labels[:4]))
print("hand-derived VJPs in one forward pass:", program.count("custom_vjp_call["))

# %%
evaluate = jax.jit(mean_loss)
params, state = start, optimizer.init(start)
num_epochs = 1 if SMOKE else 10
curves = []
for epoch in range(num_epochs):
    batches = np.random.default_rng(epoch).permutation(1440).reshape(-1, 48)
    results = []
    for batch in batches:
        params, state, loss, accuracy = train_step(
            params, state, train_images[batch], train_labels[batch]
        )
        results.append((float(loss), float(accuracy)))
    test_loss, test_accuracy = evaluate(params, test_images, test_labels)
    curves.append((*np.mean(results, axis=0), float(test_loss), float(test_accuracy)))
    print(f"epoch {epoch + 1:2}: test accuracy {100 * test_accuracy:.1f} %")

# %%
train_loss, train_accuracy, test_loss, test_accuracy = np.transpose(curves)
epochs = np.arange(1, num_epochs + 1)
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 2.8), layout="constrained")
left.semilogy(epochs, train_loss, "o-", markersize=3, label="training")
left.semilogy(epochs, test_loss, "s-", markersize=3, label="test")
left.set_ylabel("loss")
right.plot(epochs, 100 * train_accuracy, "o-", markersize=3, label="training")
right.plot(epochs, 100 * test_accuracy, "s-", markersize=3, label="test")
right.set_ylabel("accuracy / %")
right.legend(loc="lower right")
for ax in (left, right):
    ax.set_xlabel("epoch")
    ax.set_xticks(epochs)
plt.show()

# %% [markdown]
r"""
The six filters of the first layer, before and after training, and the difference. The noise
that they started from is still there. What was **learned** is in the third row, and it is
smooth: whole sides of a filter rose and others fell together, as in the Sobel filters,
because the gradient is a correlation with the strokes of a thousand digits.
"""

# %%
before, after = (tree["c1"]["kernel"][:, :, 0] for tree in (start, params))
for name, filters in {
    "before": before,
    "after": after,
    "learned: the difference, stronger colours": after - before,
}.items():
    figure = pictures(
        [filters[..., i] for i in range(6)],
        signed=True,
        size=1.1,
        scale=float(np.abs(filters).max()),
    )
    figure.suptitle(name.capitalize(), size=10)
    plt.show()

# %% [markdown]
r"""
What they see on one digit, after the first pooling, and where the loss comes from: the
last picture is $dL/dx$, the gradient that arrives at the pixels, through everything this
notebook derived.
"""

# %%
one = test_images[:1]
_, seen = model.apply({"params": params}, one, endpoints=True)  # values on the way, too
at_pixels = jax.grad(lambda x: mean_loss(params, x, test_labels[:1])[0])(one)
maps = [seen["stage1"][0, ..., i] for i in range(6)]
pictures([one[0, ..., 0], *maps], ["digit"] + [f"map {i + 1}" for i in range(6)])
plt.show()
pictures([at_pixels[0, ..., 0]], ["dL/dx"], signed=True, size=2.2)
plt.show()

# %% [markdown]
r"""
## What to keep

| layer | forward | backward to the input | backward to the parameters |
|---|---|---|---|
| convolution | correlate with $w$ | correlate padded $dy$ with flipped $w$ | correlate $x$ with $dy$; sum $dy$ |
| stride $s$ | keep every $s$-th output | put zeros between the entries of $dy$ | same zeros |
| max-pooling | the largest | to the first winner | none |
| average pooling | the mean | equal shares | none |
| batch norm | normalise | remove mean and $\hat x$ direction, times $r$ | $\sum dy\,\hat x$; $\sum dy$ |
| ReLU | keep what is positive | where the input was positive | none |
| softmax cross-entropy | $-\log p_{\text{label}}$ | probabilities minus one-hot | none |

**Try it yourself.**

1. Change the stride in section 4 to 3 and the padding to 0. Which pixels of an 8×8 input
   get no gradient at all?
2. Share the gradient of a tie among the winners in section 8. Does `numerical_grad` agree
   more with one rule than with the other?
3. In section 9 train on white noise in place of the photograph. Why does it take so many
   fewer steps?
4. Give section 8's `forward` a second convolution, write its backward pass, and test it
   against `jax.grad`.

**Read on.** Y. LeCun et al., *Gradient-Based Learning Applied to Document Recognition*,
1998. V. Dumoulin and F. Visin, *A guide to convolution arithmetic for deep learning*, 2016,
<https://arxiv.org/abs/1603.07285>. S. Ioffe and C. Szegedy, *Batch Normalization*, 2015,
<https://arxiv.org/abs/1502.03167>. Here: [Kernels](../docs/kernels.md),
[Testing](../docs/testing.md), and the [other notebooks](README.md).
"""
