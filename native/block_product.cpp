// Products of block-sparse operators with several vectors at once.
//
// Called by parallel/block_product.py. Vectors are the rows of X, so that one row holds the same
// orbital of all vectors and a block of O becomes a small dense product.

#include <algorithm>
#include <cstdint>
#include <vector>

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include "block_product.hpp"
#include "platform.hpp"
#include "small_product.hpp"

namespace nb = nanobind;

namespace {

using small_product::Index;
using small_product::multiply;
using Indices = nb::ndarray<const Index, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <typename Number, int Dimensions>
using Array = nb::ndarray<Number, nb::ndim<Dimensions>, nb::c_contig, nb::device::cpu>;

// result[:, q] += sum over pairs of weight[q] * block * x, all rows of one atom together.
template <typename Number>
FOR_EACH_CPU void atom_rows(const Index *pairs, Index npairs, const Index *second_row,
                         const Index *inner, const Index *offset, const Number *values,
                         const Number *weights, Index sets, Index rows, const Number *x,
                         Index width, Number *scratch, Number *sums) {
    std::fill(sums, sums + sets * rows * width, Number(0));
    for (Index n = 0; n < npairs; ++n) {
        const Index p = pairs[n], columns = inner[p], size = rows * columns;
        const Number *block = values + offset[p];
        const Number *weight = weights + p * sets;
        if (sets == 1 && weight[0] == Number(1)) {
            multiply(rows, columns, block, x + second_row[p] * width, width, sums);
            continue;
        }
        const bool all = std::find(weight, weight + sets, Number(0)) == weight + sets;
        for (Index q = 0; q < sets; ++q) {
            if (weight[q] == Number(0)) continue;
            Number *scaled = scratch + (all ? q * size : 0);
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
template <typename Number>
void block_product(Indices pair_start, Indices pairs, Indices first_row, Indices norb,
                   Indices second_row, Indices inner, Indices offset,
                   Array<const Number, 1> values, Array<const Number, 2> weights,
                   Array<const Number, 2> x, Array<Number, 3> y) {
    const Index natoms = static_cast<Index>(norb.shape(0));
    const Index sets = static_cast<Index>(weights.shape(1));
    const Index width = static_cast<Index>(x.shape(1));
    Index largest = 0, largest_inner = 0;
    for (Index i = 0; i < natoms; ++i) largest = std::max(largest, norb.data()[i]);
    for (std::size_t p = 0; p < inner.shape(0); ++p)
        largest_inner = std::max(largest_inner, inner.data()[p]);
    nb::gil_scoped_release released;
    std::vector<Number> sums(sets * largest * width), scratch(sets * largest * largest_inner);
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
    module.def("block_product", &block_product<double>,
               "Multiply the blocks of an operator, weighted pair by pair, with vectors.");
    module.def("block_product", &block_product<float>, "The same in single precision.");
}
