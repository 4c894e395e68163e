#include "math/tanh.h"
#include "math/logistic_derivatives.h"
#include "operators/unary.h"

FUSEDGRAD_UNARY_OPERATORS(tanh, Tanh)
