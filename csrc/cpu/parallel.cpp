// A pool whose threads help rather than take part: the caller works through the chunks itself, and a helper that wakes
// in time takes some of them from it. So a helper that sleeps, or whose core is busy with another process, costs
// nothing, where a barrier would wait for it.
//
// A decode step is a few hundred short calls, some microseconds apart. Between them helpers spin for a bounded time,
// since waking a sleeping thread takes longer than most of these calls.

#include "parallel.h"

#include <pthread.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>

namespace kvasir {
namespace {

constexpr int kMaxThreads = 256;
constexpr std::chrono::microseconds kSpin(60);
constexpr std::chrono::microseconds kWorthWaking(100);

inline void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

class Pool {
  public:
    void run(int64_t num_chunks, int num_threads, void (*run)(void*, int64_t), void* context) {
        bool alone = num_threads < 2 || num_chunks < 2 || num_chunks > UINT32_MAX;
        if (alone || busy_.exchange(true, std::memory_order_acquire)) {
            for (int64_t i = 0; i < num_chunks; i++) run(context, i);
            return;
        }
        grow(num_threads - 1);
        run_ = run;
        context_ = context;
        num_chunks_ = uint32_t(num_chunks);
        helpers_ = num_threads - 1;
        done_.store(0, std::memory_order_relaxed);
        job_++;
        // Publishes the fields above: who takes a chunk of this job has seen them.
        unclaimed_.store(uint64_t(job_) << 32 | uint32_t(num_chunks), std::memory_order_seq_cst);
        if (sleeping_.load(std::memory_order_seq_cst) > 0) wake_if_worth_it();
        while (work()) {
        }
        for (int tries = 0; done_.load(std::memory_order_acquire) < num_chunks_; tries++) {
            if (tries < 4000) {
                pause();
            } else {
                std::this_thread::yield();  // a helper lost its core in the middle of a chunk; perhaps to this thread
            }
        }
        busy_.store(false, std::memory_order_release);
    }

    // In a child process the threads are gone, and one of them may have held the mutex.
    void forget_threads() { new (this) Pool(); }

  private:
    // Waking costs the caller tens of microseconds, so it looks at how long the first chunk takes.
    void wake_if_worth_it() {
        auto begin = std::chrono::steady_clock::now();
        if (!work()) return;
        auto left = (std::chrono::steady_clock::now() - begin) * (num_chunks_ - 1);
        if (left < kWorthWaking) return;
        std::lock_guard<std::mutex> lock(sleep_);
        wake_.notify_all();
    }

    // Takes one chunk and runs it. The job's number and its chunks that are left are one word, so that a late helper
    // can never take a chunk of one job for a chunk of another.
    bool work() {
        uint64_t seen = unclaimed_.load(std::memory_order_acquire);
        do {
            if (uint32_t(seen) == 0) return false;
        } while (!unclaimed_.compare_exchange_weak(seen, seen - 1, std::memory_order_acq_rel));
        // This job cannot end before this chunk is counted, so its fields are stable now.
        run_(context_, num_chunks_ - uint32_t(seen));
        done_.fetch_add(1, std::memory_order_release);
        return true;
    }

    void help(int thread) {
        for (;;) {
            auto deadline = std::chrono::steady_clock::now() + kSpin;
            for (int tries = 1;; tries++) {
                if (thread <= helpers_.load(std::memory_order_relaxed) && work()) {
                    deadline = std::chrono::steady_clock::now() + kSpin;
                } else {
                    pause();
                    if (tries % 32 == 0 && std::chrono::steady_clock::now() > deadline) break;
                }
            }
            std::unique_lock<std::mutex> lock(sleep_);
            sleeping_.fetch_add(1, std::memory_order_seq_cst);
            wake_.wait(lock, [&] {
                return thread <= helpers_.load(std::memory_order_relaxed) &&
                       uint32_t(unclaimed_.load(std::memory_order_seq_cst)) != 0;
            });
            sleeping_.fetch_sub(1, std::memory_order_relaxed);
        }
    }

    void grow(int wanted) {
        while (num_helpers_ < wanted && num_helpers_ < kMaxThreads) {
            int thread = num_helpers_ + 1;
            try {
                std::thread([this, thread] { help(thread); }).detach();
            } catch (const std::system_error&) {
                return;  // no more threads to be had: the caller does without
            }
            num_helpers_ = thread;
        }
    }

    std::atomic<bool> busy_{false};
    void (*run_)(void*, int64_t) = nullptr;
    void* context_ = nullptr;
    uint32_t num_chunks_ = 0;
    uint32_t job_ = 0;
    int num_helpers_ = 0;
    std::atomic<int> helpers_{0};  // how many may help with the job at hand
    alignas(64) std::atomic<uint64_t> unclaimed_{0};  // job << 32 | chunks that nobody has taken
    alignas(64) std::atomic<uint32_t> done_{0};
    alignas(64) std::atomic<int> sleeping_{0};
    std::mutex sleep_;
    std::condition_variable wake_;
};

// Never destroyed: helpers outlive static destructors.
Pool& pool() {
    static Pool* instance = [] {
        Pool* made = new Pool();
        pthread_atfork(nullptr, nullptr, [] { pool().forget_threads(); });
        return made;
    }();
    return *instance;
}

std::atomic<int> threads_allowed{1};

struct Buffer {
    void* memory = nullptr;
    size_t bytes = 0;
    ~Buffer() { std::free(memory); }
};

}  // namespace

void set_num_threads(int num_threads) { threads_allowed.store(num_threads, std::memory_order_relaxed); }

int num_threads() { return threads_allowed.load(std::memory_order_relaxed); }

void run_chunks(int64_t num_chunks, void (*run)(void*, int64_t), void* context) {
    pool().run(num_chunks, num_threads(), run, context);
}

void* scratch(Scratch use, size_t bytes) {
    thread_local Buffer buffers[2];
    Buffer& buffer = buffers[int(use)];
    if (buffer.bytes < bytes) {
        std::free(buffer.memory);
        buffer.bytes = (bytes + 4095) / 4096 * 4096;
        buffer.memory = std::aligned_alloc(64, buffer.bytes);
        if (buffer.memory == nullptr) std::abort();  // as every allocation of this size would
    }
    return buffer.memory;
}

}  // namespace kvasir
