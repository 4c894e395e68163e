#include "cpu/jets.h"
#include "math/jets.h"

namespace fusedgrad::cpu {

std::vector<Kernel> pow_jets() {
  return {make_kernel<math::PowJet1>(0), make_kernel<math::PowJetBackward1>(0),
          make_kernel<math::PowJet2>(0), make_kernel<math::PowJetBackward2>(0),
          make_kernel<math::PowJet3>(0), make_kernel<math::PowJetBackward3>(0),
          make_kernel<math::PowJet4>(0), make_kernel<math::PowJetBackward4>(0)};
}

}  // namespace fusedgrad::cpu
