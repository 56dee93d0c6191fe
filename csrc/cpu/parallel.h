// Splitting one kernel call over threads.
#pragma once

#include <cstddef>
#include <cstdint>

namespace kvasir {

// How many threads the calls that follow may use, the caller included.
void set_num_threads(int num_threads);
int num_threads();

// run(context, i) for every i < num_chunks, in any order, on this thread and those of the pool; returns when all are
// done. A call made while the pool is busy (from another thread, or from inside a chunk) runs on its own thread.
void run_chunks(int64_t num_chunks, void (*run)(void* context, int64_t chunk), void* context);

// At least `bytes` of memory, aligned to 64, that belongs to the calling thread until it asks again for the same use.
enum class Scratch { call, chunk };
void* scratch(Scratch use, size_t bytes);

// run_chunks over a callable of one index, whose code stays in the caller's instruction set.
template <typename Body>
static inline void parallel_for(int64_t num_chunks, Body& body) {
    run_chunks(num_chunks, [](void* context, int64_t chunk) { (*static_cast<Body*>(context))(chunk); }, &body);
}

}  // namespace kvasir
