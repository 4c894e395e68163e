#include "cuda/unary.cuh"
#include "math/logistic_derivatives.h"
#include "math/tanh.h"

FUSEDGRAD_UNARY_LAUNCHERS(tanh, Tanh)
