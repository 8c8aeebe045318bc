// Class of orbital_grid.cpp for the Python module.

#pragma once

#include <nanobind/nanobind.h>

void define_orbital_grid(nanobind::module_ &module);
