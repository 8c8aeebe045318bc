// Function of block_product.cpp for the Python module.

#pragma once

#include <nanobind/nanobind.h>

void define_block_product(nanobind::module_ &module);
