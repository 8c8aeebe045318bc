// Functions of axis_product.cpp for the Python module.

#pragma once

#include <nanobind/nanobind.h>

void define_axis_product(nanobind::module_ &module);
