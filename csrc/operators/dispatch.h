// Calls of this library's operators through PyTorch's dispatcher.
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>

namespace fusedgrad::operators {

template <class Signature>
c10::TypedOperatorHandle<Signature> find(const char* name, const char* overload = "") {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, overload).typed<Signature>();
}

// The operator as a formula in PyTorch's operations, for what the kernels do not take: what a
// device without kernels reaches, which MPS is.
template <class Handle, class... Arguments>
auto by_formula(const Handle& handle, const Arguments&... arguments) {
  return handle.redispatch(c10::DispatchKeySet(c10::DispatchKey::MPS), arguments...);
}

}  // namespace fusedgrad::operators
