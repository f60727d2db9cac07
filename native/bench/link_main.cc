// hbmesh-bench-link: a transport between two hosts, without workers, for `hbmesh bench link` (src/bench/link.ts).
//
//   hbmesh-bench-link serve port=18515        until its one client ends
//   hbmesh-bench-link bandwidth|latency ...   as link_run.h says
//
// Answers are lines of JSON on stdout. Exit codes: 0, 1 with {"ok":false,"code":...,"message":...} as the last line.
#include <cstdio>
#include <exception>
#include <string>

#include "bench/failure.h"
#include "bench/json_line.h"
#include "bench/link_run.h"
#include "bench/link_server.h"
#include "bench/order.h"

namespace {

int Fail(std::string_view codeName, const char* message) {
  const std::string line =
      hbmesh::bench::JsonLine().Flag("ok", false).Text("code", codeName).Text("message", message).Finish();
  std::fputs((line + "\n").c_str(), stdout);
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  std::string line;
  for (int i = 1; i < argc; ++i) line += (i == 1 ? "" : " ") + std::string(argv[i]);
  try {
    const hbmesh::bench::Order order(line);
    if (order.verb() == "serve") {
      hbmesh::bench::ServeLink(static_cast<uint16_t>(order.Number("port")));
    } else if (order.verb() == "bandwidth" || order.verb() == "latency") {
      hbmesh::bench::RunLink(order);
    } else {
      return Fail("INVALID", "usage: hbmesh-bench-link serve|bandwidth|latency name=value...");
    }
    return 0;
  } catch (const hbmesh::bench::Failure& failure) {
    return Fail(failure.codeName(), failure.what());
  } catch (const std::exception& other) {
    return Fail("RUNTIME_ERROR", other.what());
  }
}
