// Products of block-sparse operators with several vectors at once.
//
// Called by parallel/block_product.py. Vectors are the rows of X, so that one row holds the same
// orbital of all vectors and a block of O becomes a small dense product.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include "block_product.hpp"
#include "platform.hpp"

namespace nb = nanobind;

namespace {

using Index = std::int64_t;
using Indices = nb::ndarray<const Index, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Numbers = nb::ndarray<const double, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Matrix = nb::ndarray<const double, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Result = nb::ndarray<double, nb::ndim<3>, nb::c_contig, nb::device::cpu>;

// Eight numbers that the compiler maps to the vector registers of the processor.
typedef double Eight __attribute__((vector_size(8 * sizeof(double))));

INLINE Eight load(const double *from) {
    Eight value;
    std::memcpy(&value, from, sizeof(Eight));
    return value;
}

// result += left * right for `Rows` rows of left and 8 * Vectors columns of right.
template <int Rows, int Vectors>
INLINE void tile(Index inner, const double *left, const double *right, Index width,
                 double *result) {
    Eight sum[Rows][Vectors] = {};
    for (Index k = 0; k < inner; ++k) {
        Eight row[Vectors];
        for (int v = 0; v < Vectors; ++v) row[v] = load(right + k * width + 8 * v);
        for (int m = 0; m < Rows; ++m)
            for (int v = 0; v < Vectors; ++v) sum[m][v] += left[m * inner + k] * row[v];
    }
    for (int m = 0; m < Rows; ++m)
        for (int v = 0; v < Vectors; ++v) {
            double *place = result + m * width + 8 * v;
            const Eight total = load(place) + sum[m][v];
            std::memcpy(place, &total, sizeof(Eight));
        }
}

// The rows of a block, six, four, two or one at a time, for 8 * Vectors columns.
template <int Vectors>
INLINE void column_strip(Index rows, Index inner, const double *left, const double *right,
                         Index width, double *result) {
    Index m = 0;
    for (; m + 6 <= rows; m += 6)
        tile<6, Vectors>(inner, left + m * inner, right, width, result + m * width);
    for (; m + 4 <= rows; m += 4)
        tile<4, Vectors>(inner, left + m * inner, right, width, result + m * width);
    for (; m + 2 <= rows; m += 2)
        tile<2, Vectors>(inner, left + m * inner, right, width, result + m * width);
    for (; m < rows; ++m)
        tile<1, Vectors>(inner, left + m * inner, right, width, result + m * width);
}

// result += left * right, all row-major; left is rows x inner, right has `width` columns.
INLINE void multiply(Index rows, Index inner, const double *left, const double *right,
                     Index width, double *result) {
    Index column = 0;
    for (; column + 24 <= width; column += 24)
        column_strip<3>(rows, inner, left, right + column, width, result + column);
    for (; column + 16 <= width; column += 16)
        column_strip<2>(rows, inner, left, right + column, width, result + column);
    for (; column + 8 <= width; column += 8)
        column_strip<1>(rows, inner, left, right + column, width, result + column);
    for (Index m = 0; m < rows && column < width; ++m)
        for (Index k = 0; k < inner; ++k)
            for (Index n = column; n < width; ++n)
                result[m * width + n] += left[m * inner + k] * right[k * width + n];
}

// result[:, q] += sum over pairs of weight[q] * block * x, all rows of one atom together.
FOR_EACH_CPU
void atom_rows(const Index *pairs, Index npairs, const Index *second_row, const Index *inner,
               const Index *offset, const double *values, const double *weights, Index sets,
               Index rows, const double *x, Index width, double *scratch, double *sums) {
    std::fill(sums, sums + sets * rows * width, 0.0);
    for (Index n = 0; n < npairs; ++n) {
        const Index p = pairs[n], columns = inner[p], size = rows * columns;
        const double *block = values + offset[p];
        const double *weight = weights + p * sets;
        const bool all = std::find(weight, weight + sets, 0.0) == weight + sets;
        for (Index q = 0; q < sets; ++q) {
            if (weight[q] == 0.0) continue;
            double *scaled = scratch + (all ? q * size : 0);
            for (Index entry = 0; entry < size; ++entry) scaled[entry] = weight[q] * block[entry];
            // A pair within one cell has no imaginary part: a set without weight costs nothing.
            if (!all)
                multiply(rows, columns, scaled, x + second_row[p] * width, width,
                         sums + q * rows * width);
        }
        if (all)
            multiply(sets * rows, columns, scratch, x + second_row[p] * width, width, sums);
    }
}

// Y[m, q, :] = sum_p weight[p, q] (O_p X)[m, :] for the rows m of this rank's atoms.
void block_product(Indices pair_start, Indices pairs, Indices first_row, Indices norb,
                   Indices second_row, Indices inner, Indices offset, Numbers values,
                   Matrix weights, Matrix x, Result y) {
    const Index natoms = static_cast<Index>(norb.shape(0));
    const Index sets = static_cast<Index>(weights.shape(1));
    const Index width = static_cast<Index>(x.shape(1));
    Index largest = 0, largest_inner = 0;
    for (Index i = 0; i < natoms; ++i) largest = std::max(largest, norb.data()[i]);
    for (std::size_t p = 0; p < inner.shape(0); ++p)
        largest_inner = std::max(largest_inner, inner.data()[p]);
    nb::gil_scoped_release released;
    std::vector<double> sums(sets * largest * width), scratch(sets * largest * largest_inner);
    for (Index i = 0; i < natoms; ++i) {
        const Index start = pair_start.data()[i], rows = norb.data()[i];
        atom_rows(pairs.data() + start, pair_start.data()[i + 1] - start, second_row.data(),
                  inner.data(), offset.data(), values.data(), weights.data(), sets, rows,
                  x.data(), width, scratch.data(), sums.data());
        for (Index q = 0; q < sets; ++q)
            for (Index m = 0; m < rows; ++m)
                std::copy_n(sums.data() + (q * rows + m) * width, width,
                            y.data() + ((first_row.data()[i] + m) * sets + q) * width);
    }
}

}  // namespace

void define_block_product(nb::module_ &module) {
    module.def("block_product", &block_product,
               "Multiply the blocks of an operator, weighted pair by pair, with vectors.");
}
