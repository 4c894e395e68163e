#include "cpu/jets.h"
#include "cpu/unary.h"
#include "math/logistic_derivatives.h"

FUSEDGRAD_UNARY_KERNELS(sigmoid, Sigmoid)
FUSEDGRAD_JETS(sigmoid, Sigmoid)
