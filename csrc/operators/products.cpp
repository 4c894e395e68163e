#include "operators/products.h"

#include <ATen/core/grad_mode.h>
#include <ATen/record_function.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>
#include <torch/csrc/autograd/functions/utils.h>

#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <utility>

#include "cpu/products.h"
#include "operators/compiled.h"
#include "operators/elementwise.h"
#include "operators/operation.h"
#include "operators/torch_versions.h"

namespace fusedgrad::operators {
namespace {

using at::Tensor;

// Sums of products as a graph, in which a sum or a product follows what it is made of. A product
// of a derivative has no other below it: each term has one.
class Expressions {
 public:
  enum class Kind { Factor, Derivative, Product, Sum };
  struct Expression {
    Kind kind;
    int first;   // of a factor its number, of a derivative its order, counted from the least
    int second;  // of products and sums
    auto operator<=>(const Expression&) const = default;
  };

  int add(Kind kind, int first, int second = 0) {
    if (kind >= Kind::Product && first > second) std::swap(first, second);
    const auto [found, is_new] = numbers_.try_emplace({kind, first, second}, size());
    if (is_new) expressions_.push_back(found->first);
    return found->second;
  }
  int size() const { return static_cast<int>(expressions_.size()); }
  const Expression& operator[](int i) const { return expressions_[i]; }

 private:
  std::vector<Expression> expressions_;
  std::map<Expression, int> numbers_;
};

constexpr int kNone = -1;

// The results of a node; those of nodes that differentiate it are made once, and kept.
class Results {
 public:
  Results(Expressions expressions, std::vector<int> results, int factors)
      : expressions_(std::move(expressions)), results_(std::move(results)) {
    program_.factors = factors;
    compile();
  }

  int factors() const { return program_.factors; }
  int count() const { return static_cast<int>(results_.size()); }
  const cpu::Program& program() const { return program_; }

  // The gradients by those of the factors and x, in this order, that are bits of `wanted`. Before
  // the factors come the gradients of those results that are bits of `given`. There is a product
  // with x in each result, and with each factor in one at least; not in one that is given.
  struct Gradients {
    std::unique_ptr<const Results> results;
    uint64_t found = 0;  // bits of `wanted`
  };
  const Gradients& gradients(uint64_t given, uint64_t wanted) const {
    const std::lock_guard<std::mutex> lock(mutex_);
    auto [found, is_new] = gradients_.try_emplace({given, wanted});
    if (is_new) found->second = differentiated(given, wanted);
    return found->second;
  }

  // By operators that are differentiated, for whatever operands
  variable_list evaluate(const Derived& derived, const variable_list& operands,
                         const Parameters& parameters) const {
    const Tensor& x = operands.back();
    variable_list values(expressions_.size());
    const auto product = [&](int i, int j) {
      for (const auto& [one, other] : {std::pair(i, j), std::pair(j, i)}) {
        if (expressions_[one].kind != Kind::Derivative) continue;
        Parameters own = parameters;
        own.order += expressions_[one].first;
        return derived.times(values[other], x, own);
      }
      return values[i] * values[j];
    };
    for (int i = 0; i < expressions_.size(); ++i) {
      const auto& [kind, first, second] = expressions_[i];
      if (kind == Kind::Factor) values[i] = operands[first];
      if (kind == Kind::Product) values[i] = product(first, second);
      if (kind == Kind::Sum) values[i] = values[first] + values[second];
    }
    variable_list found;
    for (int result : results_) found.push_back(values[result]);
    return found;
  }

 private:
  using Kind = Expressions::Kind;

  Gradients differentiated(uint64_t given, uint64_t wanted) const {
    Expressions made;
    const int shift = __builtin_popcountll(given);
    std::vector<int> same(expressions_.size());  // of each expression
    for (int i = 0; i < expressions_.size(); ++i) {
      const auto& [kind, first, second] = expressions_[i];
      if (kind == Kind::Factor) same[i] = made.add(kind, first + shift);
      if (kind == Kind::Derivative) same[i] = made.add(kind, first);
      if (kind >= Kind::Product) same[i] = made.add(kind, same[first], same[second]);
    }
    std::vector<int> adjoints(expressions_.size(), kNone);
    const auto add_to = [&](int& adjoint, int term) {
      adjoint = adjoint == kNone ? term : made.add(Kind::Sum, adjoint, term);
    };
    for (int i = 0, next = 0; i < count(); ++i) {
      if (given >> i & 1) add_to(adjoints[results_[i]], made.add(Kind::Factor, next++));
    }
    std::vector<int> by_operand(factors() + 1, kNone);
    for (int i = expressions_.size() - 1; i >= 0; --i) {
      const auto& [kind, first, second] = expressions_[i];
      const int adjoint = adjoints[i];
      if (adjoint == kNone) continue;
      if (kind == Kind::Factor) by_operand[first] = adjoint;
      if (kind == Kind::Derivative) {
        add_to(by_operand.back(),
               made.add(Kind::Product, adjoint, made.add(Kind::Derivative, first + 1)));
      }
      if (kind == Kind::Product) {
        add_to(adjoints[first], made.add(Kind::Product, adjoint, same[second]));
        add_to(adjoints[second], made.add(Kind::Product, adjoint, same[first]));
      }
      if (kind == Kind::Sum) {
        add_to(adjoints[first], adjoint);
        add_to(adjoints[second], adjoint);
      }
    }
    Gradients gradients;
    std::vector<int> results;
    for (size_t i = 0; i < by_operand.size(); ++i) {
      if (!(wanted >> i & 1) || by_operand[i] == kNone) continue;
      gradients.found |= uint64_t{1} << i;
      results.push_back(by_operand[i]);
    }
    TORCH_INTERNAL_ASSERT(std::set(results.begin(), results.end()).size() == results.size());
    gradients.results =
        std::make_unique<const Results>(needed(made, results), results, factors() + shift);
    return gradients;
  }

  // Those that the results are made of, whose numbers become the new ones
  static Expressions needed(const Expressions& all, std::vector<int>& results) {
    std::vector<bool> is_needed(all.size());
    for (int result : results) is_needed[result] = true;
    for (int i = all.size() - 1; i >= 0; --i) {
      if (is_needed[i] && all[i].kind >= Kind::Product) {
        is_needed[all[i].first] = is_needed[all[i].second] = true;
      }
    }
    Expressions kept;
    std::vector<int> numbers(all.size(), kNone);
    for (int i = 0; i < all.size(); ++i) {
      if (!is_needed[i]) continue;
      auto [kind, first, second] = all[i];
      if (kind >= Kind::Product) first = numbers[first], second = numbers[second];
      numbers[i] = kept.add(kind, first, second);
    }
    for (int& result : results) result = numbers[result];
    return kept;
  }

  // The program of the kernel
  void compile() {
    const int size = expressions_.size();
    std::vector<int> uses(size), last(size, kNone);
    for (int result : results_) uses[result] += 2;  // is stored by itself
    for (int i = 0; i < size; ++i) {
      const auto& [kind, first, second] = expressions_[i];
      if (kind == Kind::Derivative) program_.orders = std::max(program_.orders, first + 1);
      if (kind >= Kind::Product) ++uses[first], ++uses[second];
    }
    program_.results = count();
    // A product that is added once is a part of the sum.
    std::vector<bool> inside(size);
    std::vector<std::array<int, 3>> operands(size);  // first * second + addend
    for (int i = 0; i < size; ++i) {
      const auto [kind, first, second] = expressions_[i];
      if (kind == Kind::Product) operands[i] = {first, second, kNone};
      if (kind != Kind::Sum) continue;
      operands[i] = {first, kNone, second};
      for (const auto& [term, other] : {std::pair(second, first), std::pair(first, second)}) {
        if (expressions_[term].kind != Kind::Product || uses[term] != 1) continue;
        inside[term] = true;
        operands[i] = {operands[term][0], operands[term][1], other};
        break;
      }
    }
    const auto is_step = [&](int i) { return expressions_[i].kind >= Kind::Product && !inside[i]; };
    for (int i = 0; i < size; ++i) {
      if (!is_step(i)) continue;
      for (int operand : operands[i]) {
        if (operand != kNone) last[operand] = i;
      }
    }
    std::vector<int> registers(size, kNone);
    const int begin = program_.factors + program_.orders;
    for (int i = 0; i < count(); ++i) registers[results_[i]] = begin + i;
    std::vector<int> free;
    for (int i = 0; i < size; ++i) {
      const auto& [kind, first, second] = expressions_[i];
      if (kind == Kind::Factor) registers[i] = first;
      if (kind == Kind::Derivative) registers[i] = program_.factors + first;
      if (!is_step(i)) continue;
      const bool is_result = registers[i] != kNone;
      if (!is_result) {
        if (free.empty()) free.push_back(begin + program_.results + program_.temporaries++);
        registers[i] = free.back();
        free.pop_back();
      }
      const auto at = [&](int operand) {
        return static_cast<uint8_t>(operand == kNone ? cpu::Program::kNone : registers[operand]);
      };
      const auto [one, other, addend] = operands[i];
      program_.steps.push_back({at(i), at(one), at(other), at(addend)});
      for (int operand : operands[i]) {
        if (operand != kNone && last[operand] == i && registers[operand] >= begin + count()) {
          free.push_back(registers[operand]);
          last[operand] = kNone;  // twice an operand
        }
      }
    }
  }

  Expressions expressions_;
  std::vector<int> results_;
  cpu::Program program_;
  mutable std::mutex mutex_;
  mutable std::map<std::pair<uint64_t, uint64_t>, Gradients> gradients_;
};

// Those of a first backward, for ever
const Results& first_gradients() {
  static const Results* const results = [] {
    using Kind = Expressions::Kind;
    Expressions made;
    const int grad_grad = made.add(Kind::Factor, 0), grad = made.add(Kind::Factor, 1);
    const int first = made.add(Kind::Product, grad_grad, made.add(Kind::Derivative, 0));
    const int both = made.add(Kind::Product, grad_grad, grad);
    const int second = made.add(Kind::Product, both, made.add(Kind::Derivative, 1));
    return new Results(std::move(made), {first, second}, /*factors=*/2);
  }();
  return *results;
}

class ProductsNode final : public OperandsNode {
 public:
  ProductsNode(const Results& results, const Derived& derived, at::TensorList operands,
               const Parameters& parameters)
      : OperandsNode(operands), results_(results), derived_(derived), parameters_(parameters) {}

  std::string name() const override {
    return std::string("fusedgrad::") + derived_.node + "Backward";
  }

  variable_list apply(variable_list&& grads) override {
    return differentiate(results_, derived_, grads, unpack(), parameters_, wanted());
  }

  void compiled_args(torch::dynamo::autograd::CompiledNodeArgs& args) const override {
    collect(args, derived_.node, parameters_);
    args.collect(reinterpret_cast<int64_t>(&results_));
  }

  variable_list apply_with_saved(const variable_list& grads,
                                 torch::dynamo::autograd::SwapSavedVariables& saved) override {
    PackedArgs packed;
    packed.pack(reinterpret_cast<int64_t>(&results_));
    packed.pack(reinterpret_cast<int64_t>(&derived_));
    pack(packed, parameters_, saved);
    return call_compiled(derived_.node, compiled, packed, grads, next_edges(), saved);
  }

 private:
  static variable_list compiled(const variable_list& grads, const std::vector<c10::IValue>& args) {
    PackedArgs packed(args);
    const auto& results = *reinterpret_cast<const Results*>(packed.unpack<int64_t>());
    const auto& derived = *reinterpret_cast<const Derived*>(packed.unpack<int64_t>());
    const auto [parameters, mask, operands] = unpacked(packed);
    return differentiate(results, derived, grads, operands, parameters, mask);
  }

  static variable_list differentiate(const Results& results, const Derived& derived,
                                     const variable_list& grads, const variable_list& operands,
                                     const Parameters& parameters, const std::vector<bool>& mask) {
    uint64_t given = 0, wanted = 0;
    variable_list all;
    for (size_t i = 0; i < grads.size(); ++i) {
      if (!grads[i].defined()) continue;
      given |= uint64_t{1} << i;
      all.push_back(grads[i]);
    }
    for (size_t i = 0; i < mask.size(); ++i) wanted |= uint64_t{mask[i]} << i;
    all.insert(all.end(), operands.begin(), operands.end());
    variable_list by_operand(operands.size());
    if (given != 0) differentiate(by_operand, results, given, wanted, derived, all, parameters);
    return by_operand;
  }

  static void differentiate(variable_list& by_operand, const Results& results, uint64_t given,
                            uint64_t wanted, const Derived& derived, const variable_list& operands,
                            const Parameters& parameters) {
    const Results::Gradients& gradients = results.gradients(given, wanted);
    if (gradients.found == 0) return;  // what is given does not depend on what is wanted
    if (gradients.results->count() > 1 && !gradients.results->program().fits()) {
      for (uint64_t half : halves(gradients.found)) {
        differentiate(by_operand, results, given, half, derived, operands, parameters);
      }
      return;
    }
    const variable_list found = values(*gradients.results, derived, operands, parameters);
    for (size_t i = 0, next = 0; i < by_operand.size(); ++i) {
      if (gradients.found >> i & 1) by_operand[i] = found[next++];
    }
  }

  static std::array<uint64_t, 2> halves(uint64_t bits) {
    uint64_t half = bits;
    for (int i = __builtin_popcountll(bits) / 2; i > 0; --i) half &= half - 1;
    return {half, bits & ~half};
  }

  static variable_list values(const Results& results, const Derived& derived,
                              const variable_list& operands, const Parameters& parameters) {
    const cpu::Program& program = results.program();
    const int64_t greatest = parameters.order + (program.orders - 1) / 2 * 2;  // of the pairs
    if (!program.fits() || greatest > derived.most_order || !are_ordinary(operands)) {
      return by_operators(results, derived, operands, parameters);
    }
    RECORD_FUNCTION(derived.kernel, c10::ArrayRef<const c10::IValue>{});
    cpu::Products products{&program, {}};
    for (int i = 0; i < program.orders; i += products.derivatives.back().outputs) {
      Parameters own = parameters;
      own.order += i;
      products.derivatives.push_back(derived.derivatives(own, program.orders - i));
    }
    variable_list found(results.count());
    {
      const at::AutoDispatchBelowADInplaceOrView guard;
      elementwise({derived.kernel, cpu::products_kernel(products)}, found.data(), found.size(),
                  operands);
    }
    if (is_differentiated(operands)) {
      const auto node = make_node<ProductsNode>(results, derived, operands, parameters);
      for (Tensor& each : found) torch::autograd::set_history(each, node);
    }
    return found;
  }

  // Half types are rounded at the end.
  static variable_list by_operators(const Results& results, const Derived& derived,
                                    variable_list operands, const Parameters& parameters) {
    const at::ScalarType type = operands.back().scalar_type();
    const bool is_half = at::isReducedFloatingType(type);
    if (is_half) {
      for (Tensor& operand : operands) operand = operand.to(at::kFloat);
    }
    variable_list found = results.evaluate(derived, operands, parameters);
    if (is_half) {
      for (Tensor& each : found) each = each.to(type);
    }
    return found;
  }

  const Results& results_;
  const Derived& derived_;
  Parameters parameters_;
};

}  // namespace

bool are_ordinary(at::TensorList operands) {
  // Besides what there is for every call, and patched()
  constexpr c10::DispatchKeySet kOrdinary(
      {c10::DispatchKey::CPU, c10::DispatchKey::AutogradCPU, c10::DispatchKey::ADInplaceOrView,
       c10::DispatchKey::BackendSelect, c10::DispatchKey::AutocastCPU,
       c10::DispatchKey::TESTING_ONLY_GenericMode});
  c10::DispatchKeySet keys = c10::impl::tls_local_dispatch_key_set().included_;
  for (const Tensor& operand : operands) keys = keys | operand.key_set();
  const Tensor& x = operands.back();
  if ((keys - kOrdinary).highestPriorityTypeId() != c10::DispatchKey::Undefined || !x.is_cpu() ||
      !at::isFloatingType(x.scalar_type()) || c10::impl::TorchDispatchModeTLS::any_modes_set()) {
    return false;
  }
  return std::all_of(operands.begin(), operands.end(), [&x](const Tensor& operand) {
    return operand.sizes() == x.sizes() && operand.scalar_type() == x.scalar_type() &&
           operand.is_cpu() && !operand._fw_grad(/*level=*/0).defined();
  });
}

void record_gradients(Tensor& first, Tensor& second, const Derived& derived,
                      const Tensor& grad_grad, const Tensor& grad, const Tensor& x,
                      const Parameters& parameters) {
  if (!is_differentiated({grad_grad, grad, x})) return;
  const auto node = make_node<ProductsNode>(first_gradients(), derived,
                                            at::TensorList{grad_grad, grad, x}, parameters);
  torch::autograd::set_history(first, node);
  torch::autograd::set_history(second, node);
}

}  // namespace fusedgrad::operators
