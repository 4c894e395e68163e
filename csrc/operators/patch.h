// PyTorch's own operators run on this library's, in the threads that ask for it.
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>

#include <functional>

namespace fusedgrad::operators {

// A call of an operator of PyTorch that is not as ordinary as that the kernels could take it: puts
// the result in the place of the arguments and returns true, or returns false and leaves them.
using PatchedCall = bool(const c10::OperatorHandle& op, torch::jit::Stack* stack);

void set_patched_call(std::function<PatchedCall> function);

// Whether PyTorch's operators run on this library's, in this thread.
bool is_patched();

// Sets it, and returns what it was.
bool set_patched(bool patched);

}  // namespace fusedgrad::operators
