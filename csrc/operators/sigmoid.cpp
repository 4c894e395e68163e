#include "math/logistic_derivatives.h"
#include "operators/unary.h"

FUSEDGRAD_UNARY_OPERATORS(sigmoid, Sigmoid)
