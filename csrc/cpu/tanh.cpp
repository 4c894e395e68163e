#include "math/tanh.h"
#include "cpu/jets.h"
#include "cpu/unary.h"
#include "math/logistic_derivatives.h"

FUSEDGRAD_UNARY_KERNELS(tanh, Tanh)
FUSEDGRAD_JETS(tanh, Tanh)
