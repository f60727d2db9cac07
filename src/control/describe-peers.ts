/** What a sidecar is told of the members: kPeers (native/queue/layout.h). */
import type { MembershipView } from "./membership.js";

/** `self <id>`, then a line for each member: id, worker address, transports that reach it from here. */
export function describePeers(view: MembershipView): string {
  const hostId = view.members.get(view.selfId)?.member.hostId;
  const lines = [`self ${view.selfId}`];
  for (const { member } of view.members.values()) {
    const reached = member.transports.filter(({ name }) => name !== "shm" || member.hostId === hostId);
    const transports = reached.map(({ name, address }) => ` ${name}=${address}`).join("");
    lines.push(`${member.id} ${member.workerAddress}${transports}`);
  }
  return `${lines.join("\n")}\n`;
}
