// Tensor products of features with the harmonics of pairs, in the frames of the pairs.
//
// Called by core/network/axis_kernel.py; the formulas are those of core/network/tensor_product.py.
// Channels are the innermost index everywhere, so that one vector register holds the same
// component of several channels.

#include <cstdint>
#include <vector>

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/vector.h>

#include "axis_product.hpp"
#include "platform.hpp"

namespace nb = nanobind;

namespace {

using Index = std::int64_t;
using Indices = nb::ndarray<const Index, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Plan = nb::ndarray<const Index, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
template <class T>
using List = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <class T>
using Matrix = nb::ndarray<const T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
template <class T>
using Output = nb::ndarray<T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
template <class T>
using Sum = nb::ndarray<T, nb::ndim<3>, nb::c_contig, nb::device::cpu>;

constexpr int max_degree = 8;

// Several neighbouring values of type T; may lie at any address.
template <class T, int lanes>
struct Pack {
#if defined(__GNUC__)
    typedef T type __attribute__((vector_size(lanes * sizeof(T)), aligned(alignof(T)), may_alias));
#endif
};
#if defined(__GNUC__)
template <class T>
struct Pack<T, 1> {
    typedef T type;
};
template <class T>
constexpr int widest = 64 / sizeof(T);
#else
template <class T, int lanes>
struct Pack {
    typedef T type;
};
template <class T>
constexpr int widest = 1;
#endif

template <class V, class T>
INLINE V load(const T *from) {
    return *reinterpret_cast<const V *>(from);
}
template <class V, class T>
INLINE void store(T *to, V value) {
    *reinterpret_cast<V *>(to) = value;
}

// All paths from one entry of the features to one irrep of the product, as
// core/network/tensor_product.py has them.
struct Coupling {
    Index l1, l3, mul, odd, degrees, source, weight, target, column, coefficients;
};
static_assert(sizeof(Coupling) == 10 * sizeof(Index));

// One entry of the features.
struct Entry {
    Index degree, mul, source;
};
static_assert(sizeof(Entry) == 3 * sizeof(Index));

template <class T>
struct Offsets {
    Index degree[max_degree + 2];
    Offsets() {
        degree[0] = 0;
        for (Index l = 0; l <= max_degree; ++l)
            degree[l + 1] = degree[l] + (2 * l + 1) * (2 * l + 1);
    }
};

// Run a step for channels [done, mul) in packs of `lanes`; returns how many are done.
template <class T, int lanes, class Step>
INLINE Index in_packs(Index done, Index mul, Step step) {
    for (; done + lanes <= mul; done += lanes)
        step.template run<typename Pack<T, lanes>::type>(done);
    return done;
}

template <class T, class Step>
INLINE void for_channels(Index mul, Step step) {
    constexpr int w = widest<T>;
    Index done = in_packs<T, w>(0, mul, step);
    if constexpr (w >= 2) done = in_packs<T, w / 2>(done, mul, step);
    if constexpr (w >= 4) done = in_packs<T, w / 4>(done, mul, step);
    if constexpr (w > 1) in_packs<T, 1>(done, mul, step);
}

// out[k] = sum_a rotation[k, a] (first[a] + second[a]) for one entry; second may be null.
template <class T, int degree>
struct Turn {
    const T *rotation, *first, *second;
    T *out;
    Index mul;

    template <class V>
    INLINE void run(Index u) const {
        constexpr int size = 2 * degree + 1;
        V x[size];
        for (int a = 0; a < size; ++a) {
            x[a] = load<V>(first + a * mul + u);
            if (second) x[a] += load<V>(second + a * mul + u);
        }
        for (int k = 0; k < size; ++k) {
            V sum = rotation[k * size] * x[0];
            for (int a = 1; a < size; ++a) sum += rotation[k * size + a] * x[a];
            store(out + k * mul + u, sum);
        }
    }
};

template <class T>
INLINE void turn_entry(const Entry &entry, const T *rotation, const T *first, const T *second,
                       T *out) {
    const Index mul = entry.mul;
    switch (entry.degree) {
#define CASE(l)                                                           \
    case l:                                                               \
        for_channels<T>(mul, Turn<T, l>{rotation, first, second, out, mul}); \
        break;
        CASE(0) CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8)
#undef CASE
    }
}

// Product of one coupling, turned back and added to the sums of the centre.
template <class T, int mmax, bool odd>
struct Message {
    const T *rotation;      // of degree l3, (2 l3 + 1)^2
    const T *source;        // turned features of the entry, (2 l1 + 1, mul)
    const T *weight;        // (degrees, mul)
    const T *coefficients;  // (degrees, mmax + 1)
    T *sum;                 // (2 l3 + 1, channels), at the coupling's column
    Index l1, l3, mul, degrees, channels;

    template <class V>
    INLINE void run(Index u) const {
        const Index size = 2 * l3 + 1;
        const T *centre = source + l1 * mul + u;
        V x[2 * mmax + 1];
        for (int m = -mmax; m <= mmax; ++m) x[mmax + m] = load<V>(centre + m * mul);
        for (Index k = 0; k < size; ++k) {
            const T *column = rotation + l3 * size + k;
            V turned[mmax + 1];
            if constexpr (!odd) turned[0] = column[0] * x[mmax];
            for (int m = 1; m <= mmax; ++m) {
                if constexpr (odd)
                    turned[m] = column[m * size] * x[mmax - m] - column[-m * size] * x[mmax + m];
                else
                    turned[m] = column[m * size] * x[mmax + m] + column[-m * size] * x[mmax - m];
            }
            T *out = sum + k * channels + u;
            for (Index j = 0; j < degrees; ++j) {
                const T *c = coefficients + j * (mmax + 1);
                V product = c[odd] * turned[odd];
                for (int m = odd + 1; m <= mmax; ++m) product += c[m] * turned[m];
                T *place = out + j * mul;
                store(place, load<V>(place) + load<V>(weight + j * mul + u) * product);
            }
        }
    }
};

template <class T>
INLINE void add_message(const Coupling &coupling, const T *rotation, const T *source,
                        const T *weight, const T *coefficients, T *sum, Index channels) {
    const Index l1 = coupling.l1, l3 = coupling.l3, mul = coupling.mul;
    const Index degrees = coupling.degrees;
    const Index mmax = l1 < l3 ? l1 : l3;
    switch (2 * mmax + (coupling.odd ? 1 : 0)) {
#define CASE(m, odd)                                                                             \
    case 2 * m + odd:                                                                            \
        for_channels<T>(mul, Message<T, m, odd>{rotation, source, weight, coefficients, sum, l1, \
                                                l3, mul, degrees, channels});                    \
        break;
        CASE(0, 0) CASE(1, 0) CASE(2, 0) CASE(3, 0) CASE(4, 0) CASE(5, 0) CASE(6, 0) CASE(7, 0)
        CASE(8, 0) CASE(1, 1) CASE(2, 1) CASE(3, 1) CASE(4, 1) CASE(5, 1) CASE(6, 1) CASE(7, 1)
        CASE(8, 1)
#undef CASE
    }
}

template <class T>
struct Messages {
    const Entry *entries;
    Index nentries;
    const Coupling *couplings;
    Index ncouplings;
    const T *coefficients, *sources, *rotations, *weights;
    const Index *first, *second;
    Index npairs, dimension, nrotations, nweights;
    T *const *sums;         // of each target, (centres, 2 l3 + 1, channels)
    const Index *channels;  // of each target

    INLINE void add() const {
        const Offsets<T> offsets;
        std::vector<T> turned(dimension);
        for (Index p = 0; p < npairs; ++p) {
            const T *rotation = rotations + p * nrotations;
            const T *source = sources + second[p] * dimension;
            for (Index e = 0; e < nentries; ++e) {
                const Entry &entry = entries[e];
                turn_entry<T>(entry, rotation + offsets.degree[entry.degree],
                              source + entry.source, nullptr, turned.data() + entry.source);
            }
            const T *weight = weights + p * nweights;
            for (Index c = 0; c < ncouplings; ++c) {
                const Coupling &coupling = couplings[c];
                const Index width = channels[coupling.target];
                T *sum = sums[coupling.target] + first[p] * width * (2 * coupling.l3 + 1);
                add_message<T>(coupling, rotation + offsets.degree[coupling.l3],
                               turned.data() + coupling.source, weight + coupling.weight,
                               coefficients + coupling.coefficients, sum + coupling.column,
                               width);
            }
        }
    }
};

FOR_EACH_CPU void run(const Messages<float> &messages) { messages.add(); }
FOR_EACH_CPU void run(const Messages<double> &messages) { messages.add(); }

template <class T>
void add_messages(Plan entries, Plan couplings, List<T> coefficients, Matrix<T> sources,
                  Matrix<T> rotations, Indices first, Indices second, Matrix<T> weights,
                  std::vector<Sum<T>> sums) {
    std::vector<T *> totals;
    std::vector<Index> channels;
    for (auto &sum : sums) {
        totals.push_back(sum.data());
        channels.push_back(sum.shape(2));
    }
    const Messages<T> messages{reinterpret_cast<const Entry *>(entries.data()),
                               Index(entries.shape(0)),
                               reinterpret_cast<const Coupling *>(couplings.data()),
                               Index(couplings.shape(0)),
                               coefficients.data(),
                               sources.data(),
                               rotations.data(),
                               weights.data(),
                               first.data(),
                               second.data(),
                               Index(first.shape(0)),
                               Index(sources.shape(1)),
                               Index(rotations.shape(1)),
                               Index(weights.shape(1)),
                               totals.data(),
                               channels.data()};
    nb::gil_scoped_release release;
    run(messages);
}

template <class T>
struct Turns {
    const Entry *entries;
    Index nentries;
    const T *one, *other, *rotations;
    const Index *one_atom, *other_atom;
    Index npairs, dimension, nrotations;
    T *out;

    INLINE void turn() const {
        const Offsets<T> offsets;
        for (Index p = 0; p < npairs; ++p) {
            const T *rotation = rotations + p * nrotations;
            for (Index e = 0; e < nentries; ++e) {
                const Entry &entry = entries[e];
                turn_entry<T>(entry, rotation + offsets.degree[entry.degree],
                              one + one_atom[p] * dimension + entry.source,
                              other + other_atom[p] * dimension + entry.source,
                              out + p * dimension + entry.source);
            }
        }
    }
};

FOR_EACH_CPU void run(const Turns<float> &turns) { turns.turn(); }
FOR_EACH_CPU void run(const Turns<double> &turns) { turns.turn(); }

template <class T>
void turn_sums(Plan entries, Matrix<T> one, Indices one_atom, Matrix<T> other,
               Indices other_atom, Matrix<T> rotations, Output<T> out) {
    const Turns<T> turns{reinterpret_cast<const Entry *>(entries.data()),
                         Index(entries.shape(0)),
                         one.data(),
                         other.data(),
                         rotations.data(),
                         one_atom.data(),
                         other_atom.data(),
                         Index(one_atom.shape(0)),
                         Index(one.shape(1)),
                         Index(rotations.shape(1)),
                         out.data()};
    nb::gil_scoped_release release;
    run(turns);
}

// out[u] = factor * weight[u] * x[u]
template <class T>
struct Scale {
    const T *weight, *x;
    T factor;
    T *out;

    template <class V>
    INLINE void run(Index u) const {
        store(out + u, load<V>(weight + u) * load<V>(x + u) * factor);
    }
};

// Weighted components +m and -m of the products, without their coefficients.
template <class T>
struct Components {
    const Coupling *couplings;
    Index ncouplings;
    const T *features, *weights;
    Index npairs, dimension, nweights, nweighted, m, width;
    T *out;

    INLINE void fill() const {
        for (Index p = 0; p < npairs; ++p) {
            const T *x = features + p * dimension;
            const T *weight = weights + (p % nweighted) * nweights;
            T *plus = out + p * width, *minus = out + (npairs + p) * width;
            for (Index c = 0; c < ncouplings; ++c) {
                const Coupling &coupling = couplings[c];
                const Index mul = coupling.mul;
                const T *centre = x + coupling.source + coupling.l1 * mul;
                const Index shift = (coupling.odd ? -m : m) * mul;
                for (Index j = 0; j < coupling.degrees; ++j) {
                    const T *w = weight + coupling.weight + j * mul;
                    const Index place = coupling.column + j * mul;
                    for_channels<T>(mul, Scale<T>{w, centre + shift, T(1), plus + place});
                    if (m > 0)
                        for_channels<T>(mul, Scale<T>{w, centre - shift,
                                                      T(coupling.odd ? -1 : 1), minus + place});
                }
            }
        }
    }
};

FOR_EACH_CPU void run(const Components<float> &components) { components.fill(); }
FOR_EACH_CPU void run(const Components<double> &components) { components.fill(); }

template <class T>
void axis_components(Plan couplings, Matrix<T> features, Matrix<T> weights, Index m,
                     Output<T> out) {
    const Components<T> components{reinterpret_cast<const Coupling *>(couplings.data()),
                                   Index(couplings.shape(0)),
                                   features.data(),
                                   weights.data(),
                                   Index(features.shape(0)),
                                   Index(features.shape(1)),
                                   Index(weights.shape(1)),
                                   Index(weights.shape(0)),
                                   m,
                                   Index(out.shape(1)),
                                   out.data()};
    nb::gil_scoped_release release;
    run(components);
}

// out[u] = sum_i share[i] rows[i, u]
template <class T, int order>
struct Blend {
    const T *rows;
    Index stride;
    T share[order + 1];
    T *out;

    template <class V>
    INLINE void run(Index u) const {
        V sum = share[0] * load<V>(rows + u);
        for (int i = 1; i <= order; ++i) sum += share[i] * load<V>(rows + i * stride + u);
        store(out + u, sum);
    }
};

// The six quintic B-splines of the mesh points -2..3 at t in [0, 1), e.g. C. de Boor, A Practical
// Guide to Splines.
template <class T>
INLINE void quintic_shares(double t, T *shares) {
    for (int i = 0; i < 6; ++i) {
        const double x = t - (i - 2) < 0 ? (i - 2) - t : t - (i - 2);
        double value;
        if (x < 1)
            value = 66 - x * x * (60 - x * x * (30 - 10 * x));
        else if (x < 2)
            value = 51 + x * (75 - x * (210 - x * (150 - x * (45 - 5 * x))));
        else
            value = (3 - x) * (3 - x) * (3 - x) * (3 - x) * (3 - x);
        shares[i] = T(value / 120);
    }
}

// Values of uniform quintic splines at places counted in mesh points.
template <class T>
struct Splines {
    const T *coefficients;
    const Index *first;
    const double *place;
    Index npairs, width;
    T *out;

    INLINE void evaluate() const {
        for (Index p = 0; p < npairs; ++p) {
            const Index left = Index(place[p]);
            Blend<T, 5> blend{coefficients + (first[p] + left - 2) * width, width, {},
                              out + p * width};
            quintic_shares(place[p] - left, blend.share);
            for_channels<T>(width, blend);
        }
    }
};

FOR_EACH_CPU void run(const Splines<float> &splines) { splines.evaluate(); }
FOR_EACH_CPU void run(const Splines<double> &splines) { splines.evaluate(); }

template <class T>
void spline_values(Matrix<T> coefficients, Indices first, List<double> place, Output<T> out) {
    const Splines<T> splines{coefficients.data(),
                             first.data(),
                             place.data(),
                             Index(first.shape(0)),
                             Index(coefficients.shape(1)),
                             out.data()};
    nb::gil_scoped_release release;
    run(splines);
}

template <class T>
void define(nb::module_ &module) {
    module.def("add_messages", &add_messages<T>,
               "Add the products of pairs, turned back, to the sums of their centres.");
    module.def("turn_sums", &turn_sums<T>,
               "Sums of two atoms' features in the frames of their pairs.");
    module.def("axis_components", &axis_components<T>,
               "Weighted components +m and -m of the products in the frames of pairs.");
    module.def("spline_values", &spline_values<T>, "Values of uniform quintic splines.");
}

}  // namespace

void define_axis_product(nb::module_ &module) {
    define<float>(module);
    define<double>(module);
}
