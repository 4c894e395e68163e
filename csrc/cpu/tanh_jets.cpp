#include "cpu/jets.h"
#include "math/jets.h"

namespace fusedgrad::cpu {

std::vector<Kernel> tanh_jets() {
  return {make_kernel<math::TanhJet1>(), make_kernel<math::TanhJetBackward1>(),
          make_kernel<math::TanhJet2>(), make_kernel<math::TanhJetBackward2>(),
          make_kernel<math::TanhJet3>(), make_kernel<math::TanhJetBackward3>(),
          make_kernel<math::TanhJet4>(), make_kernel<math::TanhJetBackward4>()};
}

}  // namespace fusedgrad::cpu
