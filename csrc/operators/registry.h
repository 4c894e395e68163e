// What is added once and known by its number from then on, to any thread.
#pragma once

#include <c10/util/Exception.h>

#include <cstdint>
#include <deque>
#include <mutex>
#include <utility>

namespace fusedgrad::operators {

template <class Entry>
class Registry {
 public:
  // `name` is the operation that an error about a number speaks of.
  explicit Registry(const char* name) : name_(name) {}

  int64_t add(Entry entry) {
    const std::lock_guard<std::mutex> lock(mutex_);
    entries_.push_back(std::move(entry));
    return static_cast<int64_t>(entries_.size()) - 1;
  }

  // What `use` makes of an entry, which no other thread uses meanwhile, and which never moves.
  template <class Use>
  decltype(auto) with(int64_t number, const Use& use) {
    const std::lock_guard<std::mutex> lock(mutex_);
    TORCH_CHECK(number >= 0 && number < static_cast<int64_t>(entries_.size()), name_,
                ": there is no kernel ", number);
    return use(entries_[number]);
  }

 private:
  const char* name_;
  std::mutex mutex_;
  std::deque<Entry> entries_;
};

}  // namespace fusedgrad::operators
