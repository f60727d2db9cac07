// Admission: who may connect to a worker's session socket. The kernel says whose process it is; a token says whom it
// speaks for. In this order:
//
// 1. A token that is given where there are any must be right: a tenant's, or the cluster's, which is the tenant
//    `default` as over HTTP. A right one admits processes of every user.
// 2. Without a token the user decides: the sidecar's own, root, those of --client_uids, and members of --client_gid.
//    Where there are tenants, or with --local_token required, nobody gets in without a token.
// 3. A control process belongs to the sidecar's own user, or to root.
//
// Thread rule: immutable, any thread.
#pragma once

#include <sys/types.h>

#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "base/unix_socket.h"
#include "sidecar/options.h"

namespace hbmesh::sidecar {

class Admission {
 public:
  // `options` is borrowed.
  explicit Admission(const SidecarOptions& options) : options_(options) {}

  // kInvalid: the rules contradict each other.
  [[nodiscard]] Status Check() const;
  // The sidecar's own user, or root.
  [[nodiscard]] static bool IsOwn(const PeerCredentials& peer);
  // Rule 2, whatever tokens there are.
  [[nodiscard]] bool IsKnown(const PeerCredentials& peer, const std::vector<gid_t>& groups) const;
  // kNotAuthorized says what to do. *keyPrefix: of the tenant that the client speaks for (sidecar/tenants.h).
  [[nodiscard]] Status AdmitClient(const PeerCredentials& peer, bool isKnown, std::string_view token,
                                   std::string* keyPrefix) const;
  [[nodiscard]] Status AdmitControl(const PeerCredentials& peer, std::string_view token) const;

 private:
  [[nodiscard]] bool HasTokens() const;
  // What the keys of this token's owner begin with; null for a token that is nobody's.
  [[nodiscard]] const std::string* PrefixOf(std::string_view token) const;
  [[nodiscard]] Status UnknownUser(const PeerCredentials& peer) const;
  [[nodiscard]] Status WrongToken(const std::string& what) const;

  const SidecarOptions& options_;
};

}  // namespace hbmesh::sidecar
