// Calls of this library's operators through PyTorch's dispatcher.
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>

namespace fusedgrad::operators {

template <class Signature>
c10::TypedOperatorHandle<Signature> find(const char* name, const char* overload = "") {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, overload).typed<Signature>();
}

}  // namespace fusedgrad::operators
