#include "cuda/unary.cuh"
#include "math/logistic_derivatives.h"

FUSEDGRAD_UNARY_LAUNCHERS(sigmoid, Sigmoid)
