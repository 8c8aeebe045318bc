// Separable operators: sum over projector centres a of <phi_i|p_a> D_a <p_a|phi_j>.
//
// Called by core/integrals/separable.py, which holds the same sums in numpy. For every row atom i,
// every centre a its orbitals reach, and every atom j in reach of a, the block (i, j, R_j - R_i)
// is found by its key in the sorted list of the row and receives one small matrix product.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include "axis_product.hpp"
#include "platform.hpp"

namespace nb = nanobind;

namespace {

using Index = std::int64_t;
using Indices = nb::ndarray<const Index, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Shifts = nb::ndarray<const Index, nb::shape<-1, 3>, nb::c_contig, nb::device::cpu>;
using Numbers = nb::ndarray<const double, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Values = nb::ndarray<double, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// The pairs (a, j) of projectors and orbitals, in two orders, and the key of a pair (i, j, R).
struct Neighbours {
    Indices rows, by_row, row_start, centre, orbital_atom;
    Shifts shift;
    Numbers weight;
    Indices centre_start;
    Index natoms, reach;

    Index key(Index left, Index right) const {
        const Index width = 2 * reach + 1;
        const Index *from = shift.data() + 3 * left;
        const Index *to = shift.data() + 3 * right;
        Index result = orbital_atom.data()[left] * natoms + orbital_atom.data()[right];
        for (int c = 0; c < 3; ++c) result = result * width + (to[c] - from[c] + reach);
        return result;
    }

    // Calls visit(right) for all pairs (a, j) of the centre of `left` that matter beside it.
    template <class Visit>
    void partners(Index left, double threshold, Visit visit) const {
        const Index a = centre.data()[left];
        const double own = weight.data()[left];
        for (Index right = centre_start.data()[a]; right < centre_start.data()[a + 1]; ++right)
            if (own * weight.data()[right] > threshold) visit(right);
    }
};

// Four numbers that the compiler maps to the vector registers of the processor.
typedef double Four __attribute__((vector_size(4 * sizeof(double))));

INLINE void load(Four &to, const double *from) { std::memcpy(&to, from, sizeof(Four)); }

// Adds all but the first `skipped` of 4 * Vectors columns of a small product to the result.
template <int Rows, int Vectors>
INLINE void tile(Index inner, const double *left, const double *right, Index width,
                 double *result, Index skipped = 0) {
    Four sum[Rows][Vectors] = {};
    for (Index k = 0; k < inner; ++k) {
        Four row[Vectors];
        for (int v = 0; v < Vectors; ++v) load(row[v], right + k * width + 4 * v);
        for (int m = 0; m < Rows; ++m)
            for (int v = 0; v < Vectors; ++v) sum[m][v] += left[m * inner + k] * row[v];
    }
    for (int m = 0; m < Rows; ++m)
        for (int v = 0; v < Vectors; ++v) {
            double *place = result + m * width + 4 * v;
            Four old;
            load(old, place);
            for (int n = 0; n < 4; ++n)
                if (4 * v + n < skipped) sum[m][v][n] = 0.0;
            old += sum[m][v];
            std::memcpy(place, &old, sizeof(Four));
        }
}

template <int Rows>
INLINE void stripe(Index inner, Index columns, const double *left, const double *right,
                   double *result) {
    Index n = 0;
    for (; n + 8 <= columns; n += 8) tile<Rows, 2>(inner, left, right + n, columns, result + n);
    if (n + 4 <= columns) {
        tile<Rows, 1>(inner, left, right + n, columns, result + n);
        n += 4;
    }
    if (n == columns) return;
    if (columns >= 4) {  // a full tile that ends at the last column
        const Index start = columns - 4;
        tile<Rows, 1>(inner, left, right + start, columns, result + start, n - start);
        return;
    }
    for (; n < columns; ++n)
        for (int m = 0; m < Rows; ++m)
            for (Index k = 0; k < inner; ++k)
                result[m * columns + n] += left[m * inner + k] * right[k * columns + n];
}

// result (rows x columns) += left (rows x inner) * right (inner x columns), all row-major.
FOR_EACH_CPU
void multiply_add(Index rows, Index inner, Index columns, const double *left, const double *right,
                  double *result) {
    for (; rows >= 4; rows -= 4, left += 4 * inner, result += 4 * columns)
        stripe<4>(inner, columns, left, right, result);
    if (rows == 3) stripe<3>(inner, columns, left, right, result);
    if (rows == 2) stripe<2>(inner, columns, left, right, result);
    if (rows == 1) stripe<1>(inner, columns, left, right, result);
}

// left (orbitals x projectors) = block^T (projectors x orbitals) * coupling.
void couple(Index nproj, Index norb, const double *block, const double *coupling, double *left) {
    std::fill(left, left + norb * nproj, 0.0);
    for (Index p = 0; p < nproj; ++p)
        for (Index q = 0; q < nproj; ++q) {
            const double strength = coupling[p * nproj + q];
            if (strength == 0.0) continue;
            for (Index m = 0; m < norb; ++m) left[m * nproj + q] += block[p * norb + m] * strength;
        }
}

auto coupled_pairs(Indices rows, Indices by_row, Indices row_start, Indices centre,
                   Indices orbital_atom, Shifts shift, Numbers weight, Indices centre_start,
                   Index natoms, Index reach, double threshold) {
    const Neighbours near{rows,  by_row, row_start,    centre, orbital_atom,
                          shift, weight, centre_start, natoms, reach};
    auto *keys = new std::vector<Index>;
    nb::capsule owner(keys, [](void *p) noexcept { delete static_cast<std::vector<Index> *>(p); });
    {
        nb::gil_scoped_release release;
        std::vector<Index> row;
        for (std::size_t r = 0; r < rows.size(); ++r) {
            row.clear();
            for (Index s = row_start.data()[r]; s < row_start.data()[r + 1]; ++s) {
                const Index left = by_row.data()[s];
                near.partners(left, threshold,
                              [&](Index right) { row.push_back(near.key(left, right)); });
            }
            std::sort(row.begin(), row.end());
            row.erase(std::unique(row.begin(), row.end()), row.end());
            keys->insert(keys->end(), row.begin(), row.end());
        }
    }
    return nb::ndarray<nb::numpy, Index, nb::ndim<1>>(keys->data(), {keys->size()}, owner);
}

void add_separable(Indices rows, Indices by_row, Indices row_start, Indices centre,
                   Indices orbital_atom, Shifts shift, Numbers weight, Indices centre_start,
                   Index natoms, Index reach, double threshold, Numbers blocks,
                   Indices block_offset, Numbers couplings, Indices coupling_offset,
                   Indices element, Indices nproj, Indices norb, Indices target_key,
                   Indices target_offset, Values target) {
    const Neighbours near{rows,  by_row, row_start,    centre, orbital_atom,
                          shift, weight, centre_start, natoms, reach};
    nb::gil_scoped_release release;
    const Index *keys_begin = target_key.data();
    const Index *keys_end = keys_begin + target_key.size();
    const Index width = 2 * reach + 1;
    std::vector<double> coupled;
    for (std::size_t r = 0; r < rows.size(); ++r) {
        const Index i = rows.data()[r];
        const Index per_row = natoms * width * width * width;
        const Index *first = std::lower_bound(keys_begin, keys_end, i * per_row);
        const Index *last = std::lower_bound(first, keys_end, (i + 1) * per_row);
        const Index ni = norb.data()[i];
        for (Index s = row_start.data()[r]; s < row_start.data()[r + 1]; ++s) {
            const Index left = by_row.data()[s];
            const Index a = centre.data()[left];
            const Index np = nproj.data()[a];
            coupled.resize(ni * np);
            couple(np, ni, blocks.data() + block_offset.data()[left],
                   couplings.data() + coupling_offset.data()[element.data()[a]], coupled.data());
            near.partners(left, threshold, [&](Index right) {
                const Index key = near.key(left, right);
                const Index *place = std::lower_bound(first, last, key);
                if (place == last || *place != key) return;
                multiply_add(ni, np, norb.data()[orbital_atom.data()[right]], coupled.data(),
                             blocks.data() + block_offset.data()[right],
                             target.data() + target_offset.data()[place - keys_begin]);
            });
        }
    }
}

}  // namespace

NB_MODULE(_native, module) {
    module.doc() = "Compiled inner loops of hamgnn_solve.core.";
    module.def("coupled_pairs", &coupled_pairs,
               "Sorted keys of the pairs (i, j, R) that share a projector centre.");
    module.def("add_separable", &add_separable,
               "Add P_a^T D_a P_a of all centres to the blocks of an operator, in place.");
    define_axis_product(module);
}
