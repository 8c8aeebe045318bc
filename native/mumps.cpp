// MUMPS for a symmetric indefinite matrix in either precision, entries distributed over ranks.
//
// Called by solver/factorisation.py, which knows what the parameters mean (MUMPS user's guide).
// Nothing is collective in the destructor: `destroy` is called by all ranks.

#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <vector>

#include <dmumps_c.h>
#include <smumps_c.h>

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

namespace nb = nanobind;

namespace {

void call(SMUMPS_STRUC_C *instance) { smumps_c(instance); }
void call(DMUMPS_STRUC_C *instance) { dmumps_c(instance); }

template <class Instance, class Number> class Mumps {
  public:
    using Indices = nb::ndarray<const MUMPS_INT, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
    using Numbers = nb::ndarray<const Number, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
    using Vectors = nb::ndarray<Number, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

    explicit Mumps(MUMPS_INT fortran_communicator) {
        std::memset(&instance_, 0, sizeof instance_);
        instance_.comm_fortran = fortran_communicator;
        instance_.par = 1;
        instance_.sym = 2;
        run(-1);
        // No messages: errors come back as numbers.
        for (int n = 1; n <= 3; ++n) set_icntl(n, -1);
        set_icntl(4, 0);
        set_icntl(18, 3);
    }

    void set_icntl(int n, MUMPS_INT value) { instance_.icntl[checked(n, 60) - 1] = value; }
    void set_cntl(int n, double value) {
        instance_.cntl[checked(n, 15) - 1] = static_cast<Number>(value);
    }
    MUMPS_INT icntl(int n) const { return instance_.icntl[checked(n, 60) - 1]; }
    MUMPS_INT infog(int n) const { return instance_.infog[checked(n, 80) - 1]; }
    double rinfog(int n) const { return instance_.rinfog[checked(n, 40) - 1]; }

    // Rows and columns of this rank's entries and the place of every row in the order of
    // elimination, all counted from 1.
    void analyse(MUMPS_INT size, Indices rows, Indices columns, Indices order) {
        if (rows.shape(0) != columns.shape(0) || order.shape(0) != static_cast<size_t>(size))
            throw std::invalid_argument("a pattern and an order that do not belong together");
        rows_.assign(rows.data(), rows.data() + rows.shape(0));
        columns_.assign(columns.data(), columns.data() + columns.shape(0));
        order_.assign(order.data(), order.data() + size);
        instance_.n = size;
        instance_.nnz_loc = static_cast<MUMPS_INT8>(rows_.size());
        instance_.irn_loc = rows_.data();
        instance_.jcn_loc = columns_.data();
        instance_.perm_in = order_.data();
        set_icntl(7, 1);
        run(1);
    }

    void factor(Numbers values) {
        if (values.shape(0) != rows_.size())
            throw std::invalid_argument("values that are not those of the pattern");
        instance_.a_loc = const_cast<Number *>(values.data());
        run(2);
        instance_.a_loc = nullptr;
    }

    // On the first rank the right-hand sides, one a row, become the solutions.
    void solve(Vectors vectors) {
        instance_.rhs = vectors.data();
        instance_.nrhs = static_cast<MUMPS_INT>(vectors.shape(0));
        instance_.lrhs = static_cast<MUMPS_INT>(vectors.shape(1));
        set_icntl(27, instance_.nrhs);
        run(3);
        instance_.rhs = nullptr;
    }

    void destroy() { run(-2); }

  private:
    static int checked(int n, int largest) {
        if (n < 1 || n > largest) throw std::out_of_range("no such parameter of MUMPS");
        return n;
    }

    void run(MUMPS_INT job) {
        nb::gil_scoped_release release;
        instance_.job = job;
        call(&instance_);
    }

    Instance instance_;
    std::vector<MUMPS_INT> rows_, columns_, order_;
};

template <class Instance, class Number> void bind(nb::module_ &module, const char *name) {
    using Solver = Mumps<Instance, Number>;
    nb::class_<Solver>(module, name)
        .def(nb::init<MUMPS_INT>())
        .def("set_icntl", &Solver::set_icntl)
        .def("set_cntl", &Solver::set_cntl)
        .def("icntl", &Solver::icntl)
        .def("infog", &Solver::infog)
        .def("rinfog", &Solver::rinfog)
        .def("analyse", &Solver::analyse)
        .def("factor", &Solver::factor)
        .def("solve", &Solver::solve)
        .def("destroy", &Solver::destroy);
}

} // namespace

NB_MODULE(_mumps, module) {
    bind<SMUMPS_STRUC_C, float>(module, "SingleMumps");
    bind<DMUMPS_STRUC_C, double>(module, "DoubleMumps");
}
