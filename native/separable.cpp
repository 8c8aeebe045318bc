// Two-centre integrals, and separable operators: sum over projector centres a of
// <phi_i|p_a> D_a <p_a|phi_j>.
//
// Called by core/integrals (two_centre.py, separable.py, centre_products.py), which hold the same
// sums in numpy. For every row atom i, every centre a its orbitals reach, and every atom j in
// reach of a, the block (i, j, R_j - R_i) is found by its key in the sorted list of the row and
// receives one small matrix product, or a block of one large product for each centre.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include "axis_product.hpp"
#include "block_product.hpp"
#include "orbital_grid.hpp"
#include "platform.hpp"

namespace nb = nanobind;

namespace {

using Index = std::int64_t;
using Indices = nb::ndarray<const Index, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Numbers = nb::ndarray<const double, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Matrix = nb::ndarray<const double, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Places = nb::ndarray<const Index, nb::shape<-1, 2>, nb::c_contig, nb::device::cpu>;
using Triples = nb::ndarray<const Index, nb::shape<-1, 3>, nb::c_contig, nb::device::cpu>;
using Groups = nb::ndarray<const Index, nb::shape<-1, 8>, nb::c_contig, nb::device::cpu>;
using Cubics = nb::ndarray<const double, nb::shape<-1, 4, -1>, nb::c_contig, nb::device::cpu>;
using Values = nb::ndarray<double, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// The pairs (a, j) of projectors and orbitals, in two orders, and the key of a pair (i, j, R).
struct Neighbours {
    Indices rows, by_row, row_start, centre, orbital_atom;
    Triples shift;
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
                   Indices orbital_atom, Triples shift, Numbers weight, Indices centre_start,
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
                   Indices orbital_atom, Triples shift, Numbers weight, Indices centre_start,
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

// target_a (projectors x projectors) += sum over rows i and partners j of
// <p_a|phi_i> P_ij <phi_j|p_a>, for blocks P_ij of an operator.
void add_projected(Indices rows, Indices by_row, Indices row_start, Indices centre,
                   Indices orbital_atom, Triples shift, Numbers weight, Indices centre_start,
                   Index natoms, Index reach, double threshold, Numbers blocks,
                   Indices block_offset, Indices nproj, Indices norb, Indices source_key,
                   Indices source_offset, Numbers source, Indices target_offset, Values target) {
    const Neighbours near{rows,  by_row, row_start,    centre, orbital_atom,
                          shift, weight, centre_start, natoms, reach};
    nb::gil_scoped_release release;
    const Index *keys_begin = source_key.data();
    const Index *keys_end = keys_begin + source_key.size();
    const Index width = 2 * reach + 1;
    // The blocks <p_a|phi_j> as orbitals x projectors.
    std::vector<double> turned(blocks.size());
    for (std::size_t p = 0; p < centre.size(); ++p) {
        const Index np = nproj.data()[centre.data()[p]], nj = norb.data()[orbital_atom.data()[p]];
        const double *from = blocks.data() + block_offset.data()[p];
        double *to = turned.data() + block_offset.data()[p];
        for (Index q = 0; q < np; ++q)
            for (Index m = 0; m < nj; ++m) to[m * np + q] = from[q * nj + m];
    }
    std::vector<double> summed;
    for (std::size_t r = 0; r < rows.size(); ++r) {
        const Index i = rows.data()[r], ni = norb.data()[i];
        const Index per_row = natoms * width * width * width;
        const Index *first = std::lower_bound(keys_begin, keys_end, i * per_row);
        const Index *last = std::lower_bound(first, keys_end, (i + 1) * per_row);
        for (Index s = row_start.data()[r]; s < row_start.data()[r + 1]; ++s) {
            const Index left = by_row.data()[s], a = centre.data()[left];
            const Index np = nproj.data()[a];
            summed.assign(ni * np, 0.0);
            near.partners(left, threshold, [&](Index right) {
                const Index key = near.key(left, right);
                const Index *place = std::lower_bound(first, last, key);
                if (place == last || *place != key) return;
                multiply_add(ni, norb.data()[orbital_atom.data()[right]], np,
                             source.data() + source_offset.data()[place - keys_begin],
                             turned.data() + block_offset.data()[right], summed.data());
            });
            multiply_add(np, ni, np, blocks.data() + block_offset.data()[left], summed.data(),
                         target.data() + target_offset.data()[a]);
        }
    }
}

// What the columns of a table of two-centre integrals mean; see TwoCentreTable in two_centre.py.
struct TableLayout {
    // l1, shells of l1, l2, shells of l2, first row, first column, first coupling, couplings.
    Groups groups;
    // Where each shell begins in the rows and columns of a block.
    Indices rows, columns;
    // Start of the radial columns, first Gaunt coefficient, number of them.
    Triples couplings;
    // Place in the (2 l1 + 1) x (2 l2 + 1) block, place of the harmonic.
    Places gaunt_place;
    Numbers gaunt_value;
};

FOR_EACH_CPU
void evaluate_splines(Index columns, const double *coefficients, double offset, double *radial) {
    for (Index c = 0; c < columns; ++c)
        radial[c] = ((coefficients[c] * offset + coefficients[columns + c]) * offset +
                     coefficients[2 * columns + c]) * offset + coefficients[3 * columns + c];
}

FOR_EACH_CPU
void fill_block(const TableLayout &layout, const double *radial, const double *harmonics,
                Index stride, std::vector<double> &angular, std::vector<double> &sum,
                double *block) {
    for (std::size_t g = 0; g < layout.groups.shape(0); ++g) {
        const Index *group = layout.groups.data() + 8 * g;
        const Index size1 = 2 * group[0] + 1, size2 = 2 * group[2] + 1, size = size1 * size2;
        const Index shells1 = group[1], shells2 = group[3], terms = group[7];
        const Index *coupling = layout.couplings.data() + 3 * group[6];
        angular.assign(terms * size, 0.0);
        sum.resize(size);
        for (Index c = 0; c < terms; ++c) {
            const Index begin = coupling[3 * c + 1], end = begin + coupling[3 * c + 2];
            for (Index n = begin; n < end; ++n) {
                const Index *place = layout.gaunt_place.data() + 2 * n;
                angular[c * size + place[0]] += layout.gaunt_value.data()[n] * harmonics[place[1]];
            }
        }
        for (Index s1 = 0; s1 < shells1; ++s1)
            for (Index s2 = 0; s2 < shells2; ++s2) {
                const Index pair = s1 * shells2 + s2;
                const double first = radial[coupling[0] + pair];
                for (Index n = 0; n < size; ++n) sum[n] = first * angular[n];
                for (Index c = 1; c < terms; ++c) {
                    const double amplitude = radial[coupling[3 * c] + pair];
                    const double *of = angular.data() + c * size;
                    for (Index n = 0; n < size; ++n) sum[n] += amplitude * of[n];
                }
                double *to = block + layout.rows.data()[group[4] + s1] * stride +
                             layout.columns.data()[group[5] + s2];
                for (Index a = 0; a < size1; ++a)
                    for (Index b = 0; b < size2; ++b) to[a * stride + b] = sum[a * size2 + b];
            }
    }
}

void fill_blocks(Cubics coefficients, double step, double reach, Numbers distance,
                 Matrix harmonics, Groups groups, Indices rows, Indices columns, Triples couplings,
                 Places gaunt_place, Numbers gaunt_value, Values target, Indices place,
                 Indices stride) {
    const TableLayout layout{groups, rows, columns, couplings, gaunt_place, gaunt_value};
    nb::gil_scoped_release release;
    const Index intervals = coefficients.shape(0), width = coefficients.shape(2);
    std::vector<double> radial(width), angular, sum;
    for (std::size_t p = 0; p < distance.size(); ++p) {
        const double d = distance.data()[p];
        const Index interval = std::min<Index>(static_cast<Index>(d / step), intervals - 1);
        if (d < reach)
            evaluate_splines(width, coefficients.data() + interval * 4 * width,
                             d - interval * step, radial.data());
        else
            std::fill(radial.begin(), radial.end(), 0.0);
        fill_block(layout, radial.data(), harmonics.data() + p * harmonics.shape(1),
                   stride.data()[p], angular, sum, target.data() + place.data()[p]);
    }
}

// Adds the blocks of a matrix product of one centre to the blocks of an operator.
//
// The rows of the product are the orbitals of the pairs `left` of the centre, its columns those of
// the pairs `right`, each from the place `column` on; both lists ascend.
void add_product(Matrix product, Indices left, Indices right, Indices column, Indices orbital_atom,
                 Triples shift, Indices norb, Index natoms, Index reach, Indices target_start,
                 Indices target_key, Indices target_offset, Values target) {
    nb::gil_scoped_release release;
    const Index width = 2 * reach + 1;
    for (std::size_t l = 0; l < left.size(); ++l) {
        const Index from = left.data()[l];
        const Index i = orbital_atom.data()[from], ni = norb.data()[i];
        // The blocks of atom i ascend too: one walk through them finds all.
        Index place = target_start.data()[i];
        const Index last = target_start.data()[i + 1];
        for (std::size_t r = 0; r < right.size(); ++r) {
            const Index to = right.data()[r], j = orbital_atom.data()[to], nj = norb.data()[j];
            Index key = i * natoms + j;
            for (int c = 0; c < 3; ++c)
                key = key * width +
                      (shift.data()[3 * to + c] - shift.data()[3 * from + c] + reach);
            while (place < last && target_key.data()[place] < key) ++place;
            if (place == last) break;
            if (target_key.data()[place] != key) continue;
            const double *source =
                product.data() + column.data()[from] * product.shape(1) + column.data()[to];
            double *block = target.data() + target_offset.data()[place];
            for (Index m = 0; m < ni; ++m, source += product.shape(1), block += nj)
                for (Index k = 0; k < nj; ++k) block[k] += source[k];
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
    module.def("add_projected", &add_projected,
               "Add <p_a|phi_i> P_ij <phi_j|p_a> of an operator to the matrix of each centre.");
    module.def("fill_blocks", &fill_blocks,
               "Evaluate two-centre integrals from a table into strided blocks.");
    module.def("add_product", &add_product,
               "Add the blocks of one centre's matrix product to an operator, in place.");
    define_axis_product(module);
    define_block_product(module);
    define_orbital_grid(module);
}
