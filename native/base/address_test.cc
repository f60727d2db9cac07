// Goal: an address is read alike everywhere, and written in one way. Method: the table that the TypeScript and Python
// parsers are tested with too (test/support/addresses.json).
#include "base/address.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <fstream>
#include <map>
#include <sstream>

namespace hbmesh {
namespace {

using Row = std::map<std::string, std::string>;

// The rows of each list in the table: objects of strings and whole numbers, strings without escapes.
std::map<std::string, std::vector<Row>> ReadTable() {
  std::ifstream file(HBMESH_SOURCE_DIR "/test/support/addresses.json");
  std::stringstream text;
  text << file.rdbuf();
  const std::string json = text.str();
  std::map<std::string, std::vector<Row>> lists;
  std::string list;
  std::string name;
  for (size_t at = 0; at < json.size(); ++at) {
    std::string value;
    if (json[at] == '"') {
      const size_t end = json.find('"', at + 1);
      value = json.substr(at + 1, end - at - 1);
      at = end;
      if (json[at + 1] == ':') {
        name = value;
        continue;
      }
    } else if (std::isdigit(static_cast<unsigned char>(json[at])) != 0) {
      while (std::isdigit(static_cast<unsigned char>(json[at])) != 0) value += json[at++];
    } else {
      if (json[at] == '[') list = name;
      if (json[at] == '{' && !list.empty()) lists[list].emplace_back();
      continue;
    }
    if (!list.empty()) lists[list].back()[name] = value;
  }
  return lists;
}

TEST(Address, AcceptedOnesAreWrittenInOneWay) {
  const std::vector<Row> rows = ReadTable()["accepted"];
  ASSERT_GT(rows.size(), 20U);
  for (const Row& row : rows) {
    SCOPED_TRACE(row.at("text"));
    Address address;
    const Status status = ParseAddress(row.at("text"), "x", &address);
    ASSERT_TRUE(status.ok()) << status.message();
    EXPECT_EQ(address.host, row.at("host"));
    EXPECT_EQ(std::to_string(address.port), row.at("port"));
    EXPECT_EQ(FormatAddress(address.host, address.port), row.at("canonical"));
    Address again;
    ASSERT_TRUE(ParseAddress(row.at("canonical"), "x", &again).ok());
    EXPECT_EQ(again.host, address.host);
  }
}

TEST(Address, RefusedOnesSayWhy) {
  const std::vector<Row> rows = ReadTable()["refused"];
  ASSERT_GT(rows.size(), 40U);
  for (const Row& row : rows) {
    SCOPED_TRACE(row.at("text"));
    Address address{.host = "as before", .port = 7};
    const Status status = ParseAddress(row.at("text"), "worker address", &address);
    EXPECT_EQ(status.code(), StatusCode::kInvalid);
    EXPECT_TRUE(status.message().starts_with("worker address \"")) << status.message();
    EXPECT_NE(status.message().find("\" " + row.at("why")), std::string::npos) << status.message();
    EXPECT_NE(status.message().find("give HOST:PORT, as in 10.0.0.1:31501 or [::1]:31501"), std::string::npos);
    EXPECT_EQ(status.message().find("secret"), std::string::npos);
    EXPECT_EQ(address.host, "as before");
  }
}

TEST(Address, ANameIsNoIp) {
  Address address;
  ASSERT_TRUE(ParseIpAddress("[0::1]:5", "x", &address).ok());
  EXPECT_EQ(address.host, "::1");
  const Status status = ParseIpAddress("node7:5", "--worker_address", &address);
  EXPECT_EQ(status.code(), StatusCode::kInvalid);
  EXPECT_EQ(status.message(),
            "--worker_address \"node7:5\" has a name, which may lead elsewhere on another machine: give the IP that "
            "others reach (getent ahosts node7)");
}

TEST(LookUpName, FindsLoopbackAndSaysWhatLeadsNowhere) {
  std::vector<std::string> hosts;
  ASSERT_TRUE(LookUpName("localhost", &hosts).ok());
  EXPECT_TRUE(std::all_of(hosts.begin(), hosts.end(),
                          [](const std::string& host) { return host == "127.0.0.1" || host == "::1"; }));
  EXPECT_GE(hosts.size(), 1U);
  // .invalid is reserved: no resolver may know it.
  const Status status = LookUpName("nowhere.invalid", &hosts);
  EXPECT_EQ(status.code(), StatusCode::kNoAvailableWorker);
  EXPECT_TRUE(status.message().starts_with("the name nowhere.invalid leads to no address (")) << status.message();
}

}  // namespace
}  // namespace hbmesh
