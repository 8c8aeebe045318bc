// Products of small dense matrices, in whatever instruction set the calling function is for.

#pragma once

#include <cstdint>
#include <cstring>

#include "platform.hpp"

namespace small_product {

using Index = std::int64_t;

// Numbers that the compiler maps to the vector registers of the processor.
typedef double Doubles8 __attribute__((vector_size(64)));
typedef double Doubles4 __attribute__((vector_size(32)));
typedef float Floats16 __attribute__((vector_size(64)));
typedef float Floats8 __attribute__((vector_size(32)));

template <typename Number> struct Lanes;
template <> struct Lanes<double> {
    using Whole = Doubles8;
    using Half = Doubles4;
};
template <> struct Lanes<float> {
    using Whole = Floats16;
    using Half = Floats8;
};

template <typename Vector, typename Number>
INLINE Vector load(const Number *from) {
    Vector value;
    std::memcpy(&value, from, sizeof(Vector));
    return value;
}

// result += left * right for `Rows` rows of left and the columns of `Vectors` vectors.
template <typename Vector, int Rows, int Vectors, typename Number>
INLINE void tile(Index inner, const Number *left, const Number *right, Index width,
                 Number *result) {
    constexpr Index lanes = sizeof(Vector) / sizeof(Number);
    Vector sum[Rows][Vectors] = {};
    for (Index k = 0; k < inner; ++k) {
        Vector row[Vectors];
        for (int v = 0; v < Vectors; ++v) row[v] = load<Vector>(right + k * width + lanes * v);
        for (int m = 0; m < Rows; ++m)
            for (int v = 0; v < Vectors; ++v) sum[m][v] += left[m * inner + k] * row[v];
    }
    for (int m = 0; m < Rows; ++m)
        for (int v = 0; v < Vectors; ++v) {
            Number *place = result + m * width + lanes * v;
            const Vector total = load<Vector>(place) + sum[m][v];
            std::memcpy(place, &total, sizeof(Vector));
        }
}

// The rows of a block, at most seven at a time in parts of nearly the same size (one row alone
// would leave the processor waiting for its sums), for the columns of `Vectors` vectors.
template <typename Vector, int Vectors, typename Number>
INLINE void column_strip(Index rows, Index inner, const Number *left, const Number *right,
                         Index width, Number *result) {
    for (Index m = 0; m < rows;) {
        const Index parts = (rows - m + 6) / 7, size = (rows - m + parts - 1) / parts;
        const Number *from = left + m * inner;
        Number *to = result + m * width;
        switch (size) {
            case 7: tile<Vector, 7, Vectors>(inner, from, right, width, to); break;
            case 6: tile<Vector, 6, Vectors>(inner, from, right, width, to); break;
            case 5: tile<Vector, 5, Vectors>(inner, from, right, width, to); break;
            case 4: tile<Vector, 4, Vectors>(inner, from, right, width, to); break;
            case 3: tile<Vector, 3, Vectors>(inner, from, right, width, to); break;
            case 2: tile<Vector, 2, Vectors>(inner, from, right, width, to); break;
            default: tile<Vector, 1, Vectors>(inner, from, right, width, to);
        }
        m += size;
    }
}

// result += left * right, all row-major; left is rows x inner, right has `width` columns.
template <typename Number>
INLINE void multiply(Index rows, Index inner, const Number *left, const Number *right,
                     Index width, Number *result) {
    using Whole = typename Lanes<Number>::Whole;
    using Half = typename Lanes<Number>::Half;
    constexpr Index lanes = sizeof(Whole) / sizeof(Number);
    Index column = 0;
    for (; column + 3 * lanes <= width; column += 3 * lanes)
        column_strip<Whole, 3>(rows, inner, left, right + column, width, result + column);
    for (; column + 2 * lanes <= width; column += 2 * lanes)
        column_strip<Whole, 2>(rows, inner, left, right + column, width, result + column);
    for (; column + lanes <= width; column += lanes)
        column_strip<Whole, 1>(rows, inner, left, right + column, width, result + column);
    if (column + lanes / 2 <= width) {
        column_strip<Half, 1>(rows, inner, left, right + column, width, result + column);
        column += lanes / 2;
    }
    for (Index m = 0; m < rows && column < width; ++m)
        for (Index k = 0; k < inner; ++k)
            for (Index n = column; n < width; ++n)
                result[m * width + n] += left[m * inner + k] * right[k * width + n];
}

}  // namespace small_product
