// Goal: the parts of the bench programs that the launcher's tests can't see: orders are read whole or refused by name,
// answers are JSON whatever is in them, threads start together and their failures come out after all have ended.
// Method: each part on its own, with lines and works made up here.
#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "bench/failure.h"
#include "bench/json_line.h"
#include "bench/order.h"
#include "bench/timed_run.h"

namespace hbmesh::bench {
namespace {

// What `run` throws as a Failure: "CODE: message"; "" when it doesn't.
template <typename Run>
std::string FailureOf(const Run& run) {
  try {
    run();
  } catch (const Failure& failure) {
    return std::string(failure.codeName()) + ": " + failure.what();
  }
  return "";
}

TEST(BenchOrder, HasAVerbAndNamedArguments) {
  const Order order("run  op=set sizes=1,2,30 text=a=b empty=");
  EXPECT_EQ(order.verb(), "run");
  EXPECT_EQ(order.Text("op"), "set");
  EXPECT_EQ(order.Text("text"), "a=b");
  EXPECT_EQ(order.Text("empty"), "");
  EXPECT_EQ(order.List("sizes"), (std::vector<std::string>{"1", "2", "30"}));
  EXPECT_EQ(order.NumberOr("absent", 7), 7U);
  EXPECT_EQ(Order("go at=18446744073709551615").Number("at"), UINT64_MAX);
  EXPECT_EQ(Order("").verb(), "");
}

TEST(BenchOrder, NamesWhatIsWrong) {
  EXPECT_EQ(FailureOf([] { Order("run fast"); }), "INVALID: order run: \"fast\" is not name=value");
  EXPECT_EQ(FailureOf([] { Order("run =1"); }), "INVALID: order run: \"=1\" is not name=value");
  EXPECT_EQ(FailureOf([] { (void)Order("run").Text("op"); }), "INVALID: order run lacks op=");
  for (const std::string text : {"x", "1x", "-1", "", "18446744073709551616"}) {
    EXPECT_EQ(FailureOf([&] { (void)Order("run n=" + text).Number("n"); }),
              "INVALID: order run: n=" + text + " is no number");
  }
}

TEST(BenchJsonLine, EscapesTextAndKeepsNumbersExact) {
  const std::vector<uint64_t> times{0, 1'001, 18'446'744'073'709'551'615U};
  EXPECT_EQ(JsonLine()
                .Flag("ok", true)
                .Text("t", "a\"b\\c\n\x01")
                .Number("n", UINT64_MAX)
                .Micros("us", times)
                .Raw("list", "[]")
                .Finish(),
            R"({"ok":true,"t":"a\"b\\c\u000a\u0001","n":18446744073709551615,)"
            R"("us":[0.000,1.001,18446744073709551.615],"list":[]})");
  EXPECT_EQ(JsonLine().Finish(), "{}");
}

class CountingWork final : public ThreadWork {
 public:
  CountingWork(std::atomic<uint32_t>& calls, uint32_t failAt) : calls_(calls), failAt_(failAt) {}
  void Prepare(uint32_t iteration) override { iteration_ = iteration; }
  void Call() override {
    calls_.fetch_add(1);
    if (iteration_ == failAt_) throw Failure(StatusCode::kNotFound, "call " + std::to_string(iteration_));
  }

 private:
  std::atomic<uint32_t>& calls_;
  const uint32_t failAt_;
  uint32_t iteration_ = 0;
};

TEST(BenchTimedRun, TimesEveryCallOfEveryThread) {
  std::atomic<uint32_t> calls = 0;
  const TimedRun run = RunTimed(3, 5, 0, [&](uint32_t) { return std::make_unique<CountingWork>(calls, UINT32_MAX); });
  EXPECT_EQ(calls.load(), 15U);
  EXPECT_EQ(run.latenciesNs.size(), 15U);
  EXPECT_LE(run.beginNs, run.endNs);
}

TEST(BenchTimedRun, WaitsForItsMoment) {
  std::atomic<uint32_t> calls = 0;
  const uint64_t at = NowNs() + 20'000'000;
  const TimedRun run = RunTimed(2, 1, at, [&](uint32_t) { return std::make_unique<CountingWork>(calls, UINT32_MAX); });
  EXPECT_GE(run.beginNs, at);
}

TEST(BenchTimedRun, ThrowsWhatAThreadThrewAfterAllHaveEnded) {
  std::atomic<uint32_t> calls = 0;
  EXPECT_EQ(FailureOf([&] {
              (void)RunTimed(2, 4, 0, [&](uint32_t thread) {
                return std::make_unique<CountingWork>(calls, thread == 0 ? 1 : UINT32_MAX);
              });
            }),
            "NOT_FOUND: call 1");
  EXPECT_EQ(calls.load(), 2U + 4U);
}

}  // namespace
}  // namespace hbmesh::bench
