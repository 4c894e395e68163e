#include "cpu/jets.h"
#include "math/jets.h"

namespace fusedgrad::cpu {

std::vector<Kernel> sigmoid_jets() {
  return {make_kernel<math::SigmoidJet1>(), make_kernel<math::SigmoidJetBackward1>(),
          make_kernel<math::SigmoidJet2>(), make_kernel<math::SigmoidJetBackward2>(),
          make_kernel<math::SigmoidJet3>(), make_kernel<math::SigmoidJetBackward3>(),
          make_kernel<math::SigmoidJet4>(), make_kernel<math::SigmoidJetBackward4>()};
}

}  // namespace fusedgrad::cpu
