// NVRTC has no standard library and none of the host compiler's functions. This is what csrc/math
// and the device code of csrc/cuda use of them; libcu++'s <type_traits> would take 0.4 s, most of a
// compilation.
#pragma once

using int8_t = signed char;
using int16_t = short;
using int32_t = int;
using int64_t = long;
using uint8_t = unsigned char;
using uint16_t = unsigned short;
using uint32_t = unsigned;
using uint64_t = unsigned long;

#define INT32_MAX 2147483647

#define __builtin_huge_val() __builtin_bit_cast(double, 0x7ff0000000000000)
#define __builtin_nan(payload) __builtin_bit_cast(double, 0x7ff8000000000000)
#define __builtin_nanf(payload) __builtin_bit_cast(float, 0x7fc00000)
#define __builtin_truncf ::truncf
#define __builtin_fmaf ::fmaf
#define __builtin_fma ::fma
#define __builtin_fabsf ::fabsf
#define __builtin_fabs ::fabs
#define __builtin_copysignf ::copysignf
#define __builtin_copysign ::copysign
#define __builtin_sqrtf ::sqrtf
#define __builtin_sqrt ::sqrt
#define __builtin_sin ::sin
#define __builtin_cos ::cos

namespace std {

template <bool kCondition, class A, class B>
struct conditional {
  using type = A;
};
template <class A, class B>
struct conditional<false, A, B> {
  using type = B;
};
template <bool kCondition, class A, class B>
using conditional_t = typename conditional<kCondition, A, B>::type;

template <class A, class B>
constexpr bool is_same_v = false;
template <class A>
constexpr bool is_same_v<A, A> = true;

template <class T>
struct remove_pointer {
  using type = T;
};
template <class T>
struct remove_pointer<T*> {
  using type = T;
};
template <class T>
using remove_pointer_t = typename remove_pointer<T>::type;

template <class Unsigned>
using make_signed_t = conditional_t<sizeof(Unsigned) == sizeof(int64_t), int64_t, int32_t>;

template <class A, class B>
concept same_as = is_same_v<A, B>;

template <class T>
T&& declval() noexcept;

template <size_t... I>
struct index_sequence {};
template <size_t N, size_t... I>
struct make_index_sequence_of : make_index_sequence_of<N - 1, N - 1, I...> {};
template <size_t... I>
struct make_index_sequence_of<0, I...> {
  using type = index_sequence<I...>;
};
template <size_t N>
using make_index_sequence = typename make_index_sequence_of<N>::type;

}  // namespace std
