// What differs between the versions of PyTorch that this library builds against. Its twin in Python
// is fusedgrad/torch_versions.py.
#pragma once

#include <c10/util/intrusive_ptr.h>
#include <torch/csrc/autograd/function.h>

#include <memory>
#include <type_traits>
#include <utility>

namespace fusedgrad::operators {

// A node of autograd's graph is held by c10::intrusive_ptr from 2.13 on, by std::shared_ptr before.
template <class Node>
using NodePointer = std::conditional_t<std::is_base_of_v<c10::intrusive_ptr_target, Node>,
                                       c10::intrusive_ptr<Node>, std::shared_ptr<Node>>;

template <class Node, class... Arguments>
NodePointer<Node> make_node(Arguments&&... arguments) {
  if constexpr (std::is_base_of_v<c10::intrusive_ptr_target, Node>) {
    return c10::make_intrusive<Node>(std::forward<Arguments>(arguments)...);
  } else {
    // deleteNode, of torch::autograd, takes apart a long graph without recursion.
    return NodePointer<Node>(new Node(std::forward<Arguments>(arguments)...),
                             [](Node* node) { deleteNode(node); });
  }
}

}  // namespace fusedgrad::operators
