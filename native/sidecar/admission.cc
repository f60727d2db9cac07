#include "sidecar/admission.h"

#include <unistd.h>

#include <algorithm>

#include "transport/cluster_token.h"

namespace hbmesh::sidecar {

Status Admission::Check() const {
  if (options_.localToken == LocalToken::kRequired && !HasTokens()) {
    return {StatusCode::kInvalid,
            "--local_token required asks for tokens, and there are none: give --cluster_token_file or --tenants_file"};
  }
  return Status::Ok();
}

bool Admission::IsOwn(const PeerCredentials& peer) { return peer.uid == ::geteuid() || peer.uid == 0; }

bool Admission::IsKnown(const PeerCredentials& peer, const std::vector<gid_t>& groups) const {
  const auto& uids = options_.clientUids;
  if (IsOwn(peer) || std::find(uids.begin(), uids.end(), peer.uid) != uids.end()) return true;
  if (!options_.clientGid.has_value()) return false;
  const gid_t group = *options_.clientGid;
  return peer.gid == group || std::find(groups.begin(), groups.end(), group) != groups.end();
}

bool Admission::HasTokens() const {
  return !options_.tenants.empty() || options_.clusterToken != nullptr || !options_.token.empty();
}

const std::string* Admission::PrefixOf(std::string_view token) const {
  static const std::string kNone;
  const bool isClusters = options_.clusterToken != nullptr && options_.clusterToken->Matches(token);
  const bool isOwn = !options_.token.empty() && SameToken(token, options_.token);
  const std::string* tenants = options_.tenants.PrefixOf(token);
  return tenants == nullptr && (isClusters || isOwn) ? &kNone : tenants;
}

Status Admission::AdmitClient(const PeerCredentials& peer, bool isKnown, std::string_view token,
                              std::string* keyPrefix) const {
  keyPrefix->clear();
  if (HasTokens() && !token.empty()) {
    const std::string* prefix = PrefixOf(token);
    if (prefix == nullptr) return WrongToken("the token is nobody's");
    *keyPrefix = *prefix;
    return Status::Ok();
  }
  const bool isAsked =
      !options_.tenants.empty() || !options_.token.empty() || options_.localToken == LocalToken::kRequired;
  if (isAsked) return WrongToken("you gave no token");
  return isKnown ? Status::Ok() : UnknownUser(peer);
}

Status Admission::AdmitControl(const PeerCredentials& peer, std::string_view token) const {
  if (!IsOwn(peer)) {
    return {StatusCode::kNotAuthorized, "the control process of worker " + options_.workerAddress +
                                            " runs as user id " + std::to_string(::geteuid()) + " or root, you are " +
                                            std::to_string(peer.uid)};
  }
  if (!options_.token.empty() && !SameToken(token, options_.token)) return WrongToken("the token is nobody's");
  return Status::Ok();
}

Status Admission::UnknownUser(const PeerCredentials& peer) const {
  std::string served = "user id " + std::to_string(::geteuid()) + " and root";
  for (const uid_t uid : options_.clientUids) served += ", " + std::to_string(uid);
  if (options_.clientGid.has_value()) served += ", and group id " + std::to_string(*options_.clientGid);
  const std::string you = std::to_string(peer.uid);
  const std::string token = HasTokens() ? "give its token, " : "";
  return {StatusCode::kNotAuthorized, "worker " + options_.workerAddress + " serves " + served +
                                          " on this host, you are " + you + " (group " + std::to_string(peer.gid) +
                                          "): " + token + "run both as the same user, or start the worker with " +
                                          "--client_uids " + you + " or --client_gid"};
}

Status Admission::WrongToken(const std::string& what) const {
  const std::string whose = options_.tenants.empty() ? "the cluster's token (--cluster_token_file)"
                                                     : "the token of a tenant; whoever runs the worker has them in "
                                                       "its tenants file";
  return {StatusCode::kNotAuthorized, what + " at worker " + options_.workerAddress + ": give " + whose};
}

}  // namespace hbmesh::sidecar
