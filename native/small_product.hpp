// Products of small dense matrices, in whatever instruction set the calling function is for.

#pragma once

#include <cstdint>
#include <cstring>

#include "platform.hpp"

namespace small_product {

using Index = std::int64_t;

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

}  // namespace small_product
