// Atomic orbitals on tiles of a real-space grid, and the densities and states they add up to.
//
// Called by core/real_space/orbital_grid.py. The grid of the home cell is cut into small boxes,
// the tiles. On each the orbitals that reach it are tabulated, orbital by point, so that a density
// sum_ij P_ij phi_i phi_j and a state sum_i c_i phi_i become products of small dense matrices.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <stdexcept>
#include <vector>

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include "orbital_grid.hpp"
#include "platform.hpp"
#include "small_product.hpp"

namespace nb = nanobind;

namespace {

using small_product::Index;
using small_product::multiply;
using Indices = nb::ndarray<const Index, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Numbers = nb::ndarray<const double, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Matrix = nb::ndarray<const double, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Output = nb::ndarray<double, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Values = nb::ndarray<double, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Cube = nb::ndarray<double, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using Vector = std::array<double, 3>;

constexpr Index max_degree = 6;
constexpr Index max_harmonics = (max_degree + 1) * (max_degree + 1);
constexpr Index none = -1;

template <class Array>
auto copied(const Array &array) {
    using Value = std::remove_const_t<typename Array::Scalar>;
    return std::vector<Value>(array.data(), array.data() + array.size());
}

// Norms of real spherical harmonics, in the order l^2 + l + m.
struct HarmonicNorms {
    double value[max_harmonics];
    HarmonicNorms() {
        const double pi = std::acos(-1.0);
        for (Index l = 0; l <= max_degree; ++l)
            for (Index m = -l; m <= l; ++m) {
                const Index size = m < 0 ? -m : m;
                double ratio = 1.0;  // (l - |m|)! / (l + |m|)!
                for (Index k = l - size + 1; k <= l + size; ++k) ratio /= double(k);
                value[l * l + l + m] =
                    std::sqrt((2 * l + 1) / (4 * pi) * ratio * (m == 0 ? 1.0 : 2.0));
            }
    }
};

// r^l Y_lm of all l up to lmax at some points, harmonic by point; as core/integrals/harmonics.py
// with every power of r taken along, so that nothing is divided by r.
INLINE void solid_harmonics(Index lmax, const HarmonicNorms &norms, Index npoints, Index stride,
                            const double *x, const double *y, const double *z, const double *r2,
                            double *out) {
    for (Index g = 0; g < npoints; ++g) {
        double cosine = 1.0, sine = 0.0, start = 1.0;
        for (Index m = 0; m <= lmax; ++m) {
            double below = 0.0, legendre = start;
            for (Index l = m; l <= lmax; ++l) {
                const Index place = l * l + l;
                const double value = norms.value[place + m] * legendre;
                out[(place + m) * stride + g] = value * cosine;
                if (m > 0) out[(place - m) * stride + g] = value * sine;
                const double next =
                    (double(2 * l + 1) * z[g] * legendre - double(l + m) * r2[g] * below) /
                    double(l + 1 - m);
                below = legendre;
                legendre = next;
            }
            const double turned = x[g] * cosine - y[g] * sine;
            sine = x[g] * sine + y[g] * cosine;
            cosine = turned;
            start *= double(2 * m + 1);
        }
    }
}

// R(r) / r^l from cubics on equal intervals, zero from the cutoff on.
INLINE void radial_values(const double *cubics, double step, double cutoff, Index npoints,
                          const double *r, double *out) {
    for (Index g = 0; g < npoints; ++g) {
        if (r[g] >= cutoff) {
            out[g] = 0.0;
            continue;
        }
        const double place = r[g] / step;
        const Index interval = static_cast<Index>(place);
        const double *c = cubics + 4 * interval;
        const double t = place - double(interval);
        out[g] = ((c[3] * t + c[2]) * t + c[1]) * t + c[0];
    }
}

struct Shells {
    std::vector<Index> start;  // first shell of each element
    std::vector<Index> degree;
    std::vector<double> cutoff;
    std::vector<Index> table;  // first interval of each shell
    std::vector<double> cubics;
    double step;
};

struct Images {
    std::vector<Index> atom, element, owned;
    std::vector<double> position;
    Index size() const { return static_cast<Index>(atom.size()); }
};

// The orbitals on one tile: rows of `values` are orbitals, columns points.
struct TileOrbitals {
    std::vector<Index> image;      // images that reach the tile, owned ones first
    std::vector<Index> first_row;  // and one more
    std::vector<Index> orbital;    // number of each row within its atom
    std::vector<double> values;
    Index nowned = 0;
    Index rows() const { return static_cast<Index>(orbital.size()); }
};

struct Points {
    Index count = 0;
    std::vector<double> position;  // x of all points, then y, then z
    Vector centre{};
    double radius = 0.0;
};

FOR_EACH_CPU
void add_image(const Shells &shells, const HarmonicNorms &norms, Index element,
               const double *position, double away, const Points &points, Index stride,
               std::vector<double> &work, TileOrbitals &tile) {
    const Index begin = shells.start[element], end = shells.start[element + 1];
    const Index n = points.count;
    Index lmax = none;
    for (Index s = begin; s < end; ++s)
        if (away < shells.cutoff[s] + points.radius) lmax = std::max(lmax, shells.degree[s]);
    if (lmax == none) return;
    work.resize((6 + max_harmonics) * stride);
    double *x = work.data(), *y = x + stride, *z = y + stride, *r2 = z + stride;
    double *r = r2 + stride, *radial = r + stride, *harmonics = radial + stride;
    for (Index g = 0; g < n; ++g) {
        x[g] = points.position[g] - position[0];
        y[g] = points.position[stride + g] - position[1];
        z[g] = points.position[2 * stride + g] - position[2];
        r2[g] = x[g] * x[g] + y[g] * y[g] + z[g] * z[g];
        r[g] = std::sqrt(r2[g]);
    }
    solid_harmonics(lmax, norms, n, stride, x, y, z, r2, harmonics);
    Index orbital = 0;
    for (Index s = begin; s < end; ++s) {
        const Index l = shells.degree[s], width = 2 * l + 1;
        if (away < shells.cutoff[s] + points.radius) {
            radial_values(shells.cubics.data() + 4 * shells.table[s], shells.step,
                          shells.cutoff[s], n, r, radial);
            const Index row = tile.rows();
            tile.values.resize((row + width) * stride, 0.0);
            for (Index m = 0; m < width; ++m) {
                const double *harmonic = harmonics + (l * l + m) * stride;
                double *out = tile.values.data() + (row + m) * stride;
                for (Index g = 0; g < n; ++g) out[g] = radial[g] * harmonic[g];
                tile.orbital.push_back(orbital + m);
            }
        }
        orbital += width;
    }
}

FOR_EACH_CPU
void product(Index rows, Index inner, const double *left, const double *right, Index width,
             double *result) {
    multiply(rows, inner, left, right, width, result);
}

FOR_EACH_CPU
void add_row_products(Index rows, Index stride, const double *left, const double *right,
                      double *sum) {
    for (Index m = 0; m < rows; ++m)
        for (Index g = 0; g < stride; ++g) sum[g] += left[m * stride + g] * right[m * stride + g];
}

FOR_EACH_CPU
double inner_product(Index size, const double *left, const double *right) {
    double sum[8] = {};
    for (Index g = 0; g < size; g += 8)
        for (Index n = 0; n < 8; ++n) sum[n] += left[g + n] * right[g + n];
    return ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
}

class OrbitalTiles {
public:
    OrbitalTiles(Matrix cell, Indices bounds_a, Indices bounds_b, Indices bounds_c,
                 Indices image_atom, Indices image_element, Indices image_owned,
                 Matrix image_position, Indices shell_start, Indices shell_degree,
                 Numbers shell_cutoff, Indices shell_table, Numbers cubics, double step,
                 Numbers reach, Index first_layer, Index last_layer) {
        bounds_ = {copied(bounds_a), copied(bounds_b), copied(bounds_c)};
        images_ = {copied(image_atom), copied(image_element), copied(image_owned),
                   copied(image_position)};
        shells_ = {copied(shell_start), copied(shell_degree), copied(shell_cutoff),
                   copied(shell_table), copied(cubics),       step};
        reach_ = copied(reach);
        for (Index l : shells_.degree)
            if (l > max_degree) throw std::invalid_argument("a shell has too large an l");
        for (Index axis = 0; axis < 3; ++axis)
            for (Index c = 0; c < 3; ++c)
                step_[axis][c] = cell.data()[3 * axis + c] / double(bounds_[axis].back());
        Index largest = 1;
        for (const auto &bounds : bounds_) {
            Index widest = 0;
            for (std::size_t t = 0; t + 1 < bounds.size(); ++t)
                widest = std::max(widest, bounds[t + 1] - bounds[t]);
            largest *= widest;
        }
        stride_ = (largest + 7) / 8 * 8;
        find_images(first_layer, last_layer);
    }

    Index stride() const { return stride_; }

    auto tiles() const {
        auto *list = new std::vector<Index>(tiles_);
        nb::capsule owner(list,
                          [](void *p) noexcept { delete static_cast<std::vector<Index> *>(p); });
        return nb::ndarray<nb::numpy, Index, nb::ndim<1>>(list->data(), {list->size()}, owner);
    }

    // sum over owned i and all j of P_ij phi_i phi_j on the tiles [begin, end) of the list.
    // Of two owned images only one order is worked out: P_ij phi_i phi_j = P_ji phi_j phi_i.
    void density(Index begin, Index end, Indices partner_start, Indices partner, Indices offset,
                 Indices columns, Numbers values, Output out) const {
        nb::gil_scoped_release release;
        std::vector<Index> local(images_.size(), none);
        std::vector<double> work, matrix, images;
        TileOrbitals tile;
        for (Index t = begin; t < end; ++t) {
            tabulate(t, work, tile);
            double *sum = out.data() + (t - begin) * stride_;
            std::fill(sum, sum + stride_, 0.0);
            for (std::size_t n = 0; n < tile.image.size(); ++n) local[tile.image[n]] = Index(n);
            for (Index n = 0; n < tile.nowned; ++n) {
                const Index first = tile.first_row[n], rows = tile.first_row[n + 1] - first;
                const Index inner = tile.rows() - first;
                matrix.assign(rows * inner, 0.0);
                const Index i = tile.image[n];
                for (Index q = partner_start.data()[i]; q < partner_start.data()[i + 1]; ++q) {
                    const Index other = local[partner.data()[q]];
                    if (other < n) continue;  // not here, or done from the other side
                    const double weight = other > n && other < tile.nowned ? 2.0 : 1.0;
                    const double *block = values.data() + offset.data()[q];
                    const Index width = columns.data()[q];
                    const Index begin_row = tile.first_row[other];
                    const Index end_row = tile.first_row[other + 1];
                    for (Index m = 0; m < rows; ++m) {
                        const double *from = block + tile.orbital[first + m] * width;
                        double *to = matrix.data() + m * inner - first;
                        for (Index k = begin_row; k < end_row; ++k)
                            to[k] = weight * from[tile.orbital[k]];
                    }
                }
                images.assign(rows * stride_, 0.0);
                const double *own = tile.values.data() + first * stride_;
                product(rows, inner, matrix.data(), own, stride_, images.data());
                add_row_products(rows, stride_, own, images.data(), sum);
            }
            for (Index image : tile.image) local[image] = none;
        }
    }

    // sum over owned images of exp(i phase) c_mn phi_m, real and imaginary part of each state n.
    void states(Index begin, Index end, Indices first_orbital, Matrix real, Matrix imaginary,
                Numbers cosine, Numbers sine, Cube out) const {
        nb::gil_scoped_release release;
        const Index nstates = real.shape(1);
        std::vector<double> work, matrix;
        TileOrbitals tile;
        for (Index t = begin; t < end; ++t) {
            tabulate(t, work, tile);
            const Index inner = tile.first_row[tile.nowned];
            matrix.assign(2 * nstates * inner, 0.0);
            for (Index n = 0; n < tile.nowned; ++n) {
                const Index i = tile.image[n];
                const double c = cosine.data()[i], s = sine.data()[i];
                for (Index row = tile.first_row[n]; row < tile.first_row[n + 1]; ++row) {
                    const Index orbital = first_orbital.data()[images_.atom[i]] + tile.orbital[row];
                    for (Index q = 0; q < nstates; ++q) {
                        const double re = real.data()[orbital * nstates + q];
                        const double im = imaginary.data()[orbital * nstates + q];
                        matrix[(2 * q) * inner + row] = c * re - s * im;
                        matrix[(2 * q + 1) * inner + row] = c * im + s * re;
                    }
                }
            }
            double *sum = out.data() + (t - begin) * 2 * nstates * stride_;
            std::fill(sum, sum + 2 * nstates * stride_, 0.0);
            product(2 * nstates, inner, matrix.data(), tile.values.data(), stride_, sum);
        }
    }

    // sums_m += sum over points of phi_m(r) f(r), over all owned images of the orbital's atom.
    void projections(Index begin, Index end, Indices first_orbital, Matrix function,
                     Values sums) const {
        nb::gil_scoped_release release;
        std::vector<double> work;
        TileOrbitals tile;
        for (Index t = begin; t < end; ++t) {
            tabulate(t, work, tile);
            const double *f = function.data() + (t - begin) * stride_;
            for (Index n = 0; n < tile.nowned; ++n) {
                double *sum = sums.data() + first_orbital.data()[images_.atom[tile.image[n]]];
                for (Index row = tile.first_row[n]; row < tile.first_row[n + 1]; ++row)
                    sum[tile.orbital[row]] +=
                        inner_product(stride_, tile.values.data() + row * stride_, f);
            }
        }
    }

    // Number of orbitals on the tiles of the list, on average; tells the cost of a density.
    double mean_orbitals(Index begin, Index end) const {
        std::vector<double> work;
        TileOrbitals tile;
        double total = 0.0;
        for (Index t = begin; t < end; ++t) {
            tabulate(t, work, tile);
            total += double(tile.rows());
        }
        return total / double(std::max<Index>(end - begin, 1));
    }

private:
    Index ntiles(Index axis) const { return static_cast<Index>(bounds_[axis].size()) - 1; }

    std::array<Index, 3> box(Index tile) const {
        const Index nb_ = ntiles(1), nc = ntiles(2);
        return {tile / (nb_ * nc), tile / nc % nb_, tile % nc};
    }

    Vector at(double a, double b, double c) const {
        Vector point;
        for (Index v = 0; v < 3; ++v) point[v] = a * step_[0][v] + b * step_[1][v] + c * step_[2][v];
        return point;
    }

    // Centre of a tile's points and distance of the furthest one from it.
    void measure(Index tile, Vector &centre, double &radius) const {
        const auto place = box(tile);
        double low[3], high[3];
        for (Index axis = 0; axis < 3; ++axis) {
            low[axis] = double(bounds_[axis][place[axis]]);
            high[axis] = double(bounds_[axis][place[axis] + 1] - 1);
        }
        centre = at(0.5 * (low[0] + high[0]), 0.5 * (low[1] + high[1]), 0.5 * (low[2] + high[2]));
        radius = 0.0;
        for (int corner = 0; corner < 8; ++corner) {
            const Vector point = at(corner & 1 ? high[0] : low[0], corner & 2 ? high[1] : low[1],
                                    corner & 4 ? high[2] : low[2]);
            double square = 0.0;
            for (Index v = 0; v < 3; ++v) square += (point[v] - centre[v]) * (point[v] - centre[v]);
            radius = std::max(radius, std::sqrt(square));
        }
    }

    // The images within reach of every tile that an owned image reaches, owned ones first; tiles of
    // some layers along the first axis.
    void find_images(Index first_layer, Index last_layer) {
        const Index total = ntiles(0) * ntiles(1) * ntiles(2);
        std::vector<Vector> centre(total);
        std::vector<double> radius(total);
        for (Index t = 0; t < total; ++t) measure(t, centre[t], radius[t]);
        // Rows of the inverse of the matrix of steps: a plane's distance from an atom in steps.
        double inverse[3][3];
        double volume = 0.0;
        for (int a = 0; a < 3; ++a) {
            const auto &u = step_[(a + 1) % 3], &v = step_[(a + 2) % 3];
            for (int c = 0; c < 3; ++c) {
                const int d = (c + 1) % 3, e = (c + 2) % 3;
                inverse[a][c] = u[d] * v[e] - u[e] * v[d];
            }
            if (a == 0)
                for (int c = 0; c < 3; ++c) volume += step_[0][c] * inverse[0][c];
        }
        for (auto &row : inverse)
            for (double &entry : row) entry /= volume;
        std::vector<std::vector<std::int32_t>> near(total);
        std::vector<std::uint8_t> wanted(total, 0);
        std::vector<Index> own_count(total, 0);
        for (int owned = 1; owned >= 0; --owned)
            for (Index i = 0; i < images_.size(); ++i) {
                if (images_.owned[i] != owned) continue;
                const double *position = images_.position.data() + 3 * i;
                const double cutoff = reach_[images_.element[i]];
                Index low[3], high[3];
                for (Index axis = 0; axis < 3; ++axis) {
                    double middle = 0.0, norm = 0.0;
                    for (Index c = 0; c < 3; ++c) {
                        middle += inverse[axis][c] * position[c];
                        norm += inverse[axis][c] * inverse[axis][c];
                    }
                    const double width = cutoff * std::sqrt(norm);
                    const auto &bounds = bounds_[axis];
                    // Tiles whose points [b_t, b_t+1 - 1] meet the interval.
                    low[axis] = std::upper_bound(bounds.begin(), bounds.end() - 1,
                                                 Index(std::ceil(middle - width))) -
                                bounds.begin() - 1;
                    high[axis] = std::upper_bound(bounds.begin(), bounds.end() - 1,
                                                  Index(std::floor(middle + width))) -
                                 bounds.begin();
                    low[axis] = std::max<Index>(low[axis], 0);
                }
                const Index last = std::min(high[0], last_layer);
                for (Index a = std::max(low[0], first_layer); a < last; ++a)
                    for (Index b = low[1]; b < high[1]; ++b)
                        for (Index c = low[2]; c < high[2]; ++c) {
                            const Index t = (a * ntiles(1) + b) * ntiles(2) + c;
                            if (!owned && !wanted[t]) continue;
                            double square = 0.0;
                            for (Index v = 0; v < 3; ++v) {
                                const double d = centre[t][v] - position[v];
                                square += d * d;
                            }
                            const double limit = cutoff + radius[t];
                            if (square >= limit * limit) continue;
                            near[t].push_back(std::int32_t(i));
                            wanted[t] = 1;
                            own_count[t] += owned;
                        }
            }
        for (Index t = 0; t < total; ++t) {
            if (!wanted[t]) continue;
            tiles_.push_back(t);
            nowned_.push_back(own_count[t]);
            start_.push_back(static_cast<Index>(near_.size()));
            near_.insert(near_.end(), near[t].begin(), near[t].end());
            std::vector<std::int32_t>().swap(near[t]);
        }
        start_.push_back(static_cast<Index>(near_.size()));
    }

    void tabulate(Index n, std::vector<double> &work, TileOrbitals &tile) const {
        Points points;
        const auto place = box(tiles_[n]);
        measure(tiles_[n], points.centre, points.radius);
        points.position.assign(3 * stride_, 0.0);
        for (Index a = bounds_[0][place[0]]; a < bounds_[0][place[0] + 1]; ++a)
            for (Index b = bounds_[1][place[1]]; b < bounds_[1][place[1] + 1]; ++b)
                for (Index c = bounds_[2][place[2]]; c < bounds_[2][place[2] + 1]; ++c) {
                    const Vector point = at(double(a), double(b), double(c));
                    for (Index v = 0; v < 3; ++v)
                        points.position[v * stride_ + points.count] = point[v];
                    ++points.count;
                }
        tile.image.clear();
        tile.first_row.assign(1, 0);
        tile.orbital.clear();
        tile.values.clear();
        tile.nowned = 0;
        for (Index q = start_[n]; q < start_[n + 1]; ++q) {
            const Index i = near_[q];
            const double *position = images_.position.data() + 3 * i;
            double square = 0.0;
            for (Index v = 0; v < 3; ++v) {
                const double d = points.centre[v] - position[v];
                square += d * d;
            }
            add_image(shells_, norms_, images_.element[i], position, std::sqrt(square), points,
                      stride_, work, tile);
            tile.image.push_back(i);
            tile.first_row.push_back(tile.rows());
        }
        tile.nowned = nowned_[n];
    }

    std::array<std::vector<Index>, 3> bounds_;
    Images images_;
    Shells shells_;
    HarmonicNorms norms_;
    std::vector<double> reach_;
    std::array<Vector, 3> step_;
    Index stride_ = 0;
    std::vector<Index> tiles_, nowned_, start_;
    std::vector<std::int32_t> near_;
};

}  // namespace

void define_orbital_grid(nb::module_ &module) {
    nb::class_<OrbitalTiles>(module, "OrbitalTiles",
                             "Orbitals on the tiles of a grid that owned atoms reach.")
        .def(nb::init<Matrix, Indices, Indices, Indices, Indices, Indices, Indices, Matrix, Indices,
                      Indices, Numbers, Indices, Numbers, double, Numbers, Index, Index>())
        .def_prop_ro("stride", &OrbitalTiles::stride, "Points a tile has room for.")
        .def("tiles", &OrbitalTiles::tiles, "Numbers of the tiles, ascending.")
        .def("density", &OrbitalTiles::density, "Add up P_ij phi_i phi_j on some tiles.")
        .def("states", &OrbitalTiles::states, "Add up c_i phi_i on some tiles.")
        .def("projections", &OrbitalTiles::projections, "Add up phi_m f on some tiles.")
        .def("mean_orbitals", &OrbitalTiles::mean_orbitals, "Orbitals on a tile, on average.");
}
