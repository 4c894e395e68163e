// Operations on jets (python/fusedgrad/taylor/tensor.py) that Python has done before on jets of the
// same form: what runs again in each layer of a network, in each step of its training.
#pragma once

#include <torch/csrc/python_headers.h>

namespace fusedgrad::operators {

// Adds to a module: settled_jet(frame, coefficients), a jet; form_of(frame, coefficients), the form
// of such a jet; next_jet(function, arguments), the result where the first argument's form knows
// it, else None; settle_jet(jet), which computes a jet's coefficients and is true where its form
// knows how; and set_jet_classes(Jet, Coefficients), to be called first.
void bind_jets(PyObject* module);

}  // namespace fusedgrad::operators
