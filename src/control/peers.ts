/**
 * Peers: the other members as callable services. Links are made at first use, kept, and closed when their member is
 * gone. Calls to this member itself never come here.
 */
import { HbmeshError, StatusCode } from "../base/errors.js";
import type { Member } from "../gen/hbmesh/v1/cluster_pb.js";
import { DirectoryService, HolderService } from "../gen/hbmesh/v1/directory_pb.js";
import { fromConnectError } from "../rpc/connect-errors.js";
import { createLinkClient, type LinkClient } from "../rpc/link-client.js";
import type { MembershipView } from "./membership.js";
import type { ControlConnection, ControlNetwork } from "./network.js";

export interface Peer {
  member: Member;
  directory: LinkClient<typeof DirectoryService>;
  holder: LinkClient<typeof HolderService>;
}

interface OpenPeer extends Peer {
  connection: ControlConnection;
}

export class Peers {
  readonly #network: ControlNetwork;
  readonly #onLost: (memberId: number) => void;
  readonly #open = new Map<number, OpenPeer>();
  #view: MembershipView | undefined;

  /** `onLost`: the link to this member ended, though nobody closed it. */
  constructor(network: ControlNetwork, onLost: (memberId: number) => void = () => {}) {
    this.#network = network;
    this.#onLost = onLost;
  }

  /** Closes links to members that are gone or have moved. */
  setView(view: MembershipView): void {
    this.#view = view;
    for (const [id, peer] of this.#open) {
      if (view.members.get(id)?.member.linkAddress !== peer.member.linkAddress) {
        this.#open.delete(id);
        peer.connection.close();
      }
    }
  }

  /** Throws RPC_UNAVAILABLE for an id that is no member (any more). */
  get(memberId: number): Peer {
    const open = this.#open.get(memberId);
    if (open !== undefined) {
      return open;
    }
    const member = this.#view?.members.get(memberId)?.member;
    if (member === undefined) {
      throw new HbmeshError(StatusCode.RPC_UNAVAILABLE, `member ${memberId} has left the cluster; try again`);
    }
    const connection = this.#network.connect(member.linkAddress, () => this.#onLost(memberId));
    const peer: OpenPeer = {
      member,
      connection,
      directory: createLinkClient(DirectoryService, connection.transport),
      holder: createLinkClient(HolderService, connection.transport),
    };
    this.#open.set(memberId, peer);
    return peer;
  }

  /** The worker address of a member, for messages. */
  nameOf(memberId: number): string {
    return this.#view?.members.get(memberId)?.member.workerAddress ?? `member ${memberId}`;
  }

  /** An error of a call to a peer, naming its worker. */
  errorOf(memberId: number, reason: unknown): HbmeshError {
    const error = fromConnectError(reason);
    const node = this.nameOf(memberId);
    const message = error.message.includes(node) ? error.message : `worker ${node}: ${error.message}`;
    return new HbmeshError(error.code, message, {
      node,
      cause: reason,
      ...(error.key === undefined ? {} : { key: error.key }),
    });
  }

  close(): void {
    for (const peer of this.#open.values()) {
      peer.connection.close();
    }
    this.#open.clear();
  }
}

/** kPeers: `self <id>`, then a line for each member: id, worker address, transports that reach it from here. */
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
