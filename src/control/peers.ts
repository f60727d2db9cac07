/**
 * Peers: the other members as callable services. Links are made at first use, kept, and closed when their member is
 * gone. One that can't be reached is remembered by its link (rpc/link-reach.ts). Calls to this member itself never come
 * here.
 */
import { HbmeshError, StatusCode } from "../base/errors.js";
import type { Logger } from "../base/log.js";
import type { Member } from "../gen/hbmesh/v1/cluster_pb.js";
import { DirectoryService, HolderService } from "../gen/hbmesh/v1/directory_pb.js";
import { fromConnectError } from "../rpc/connect-errors.js";
import { createLinkClient, type LinkClient } from "../rpc/link-client.js";
import type { ReachChange } from "../rpc/link-reach.js";
import type { MembershipView } from "./membership.js";
import type { ControlConnection, ControlNetwork } from "./network.js";

export interface Peer {
  member: Member;
  directory: LinkClient<typeof DirectoryService>;
  holder: LinkClient<typeof HolderService>;
}

interface OpenPeer extends Peer {
  connection: ControlConnection;
  isReachable: boolean;
}

/** Members that a message names. */
const NAMED_MAX = 5;

export interface PeersOptions {
  network: ControlNetwork;
  log: Logger;
  /** The link to this member ended, though nobody closed it. */
  onLost?: (memberId: number) => void;
  /** Some member can't be reached any more, or can be again. */
  onReach?: () => void;
}

export class Peers {
  readonly #options: PeersOptions;
  readonly #open = new Map<number, OpenPeer>();
  #view: MembershipView | undefined;

  constructor(options: PeersOptions) {
    this.#options = options;
  }

  /** Which members can't be reached at the moment, so that calls to them fail at once; for people. Or empty. */
  get warning(): string {
    const lost = [...this.#open.values()].filter(({ isReachable }) => !isReachable);
    return lost.length === 0 ? "" : `can't be reached from here: ${this.namesOf(lost.map(({ member }) => member.id))}`;
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
    const { network, onLost } = this.#options;
    const connection = network.connect(member.linkAddress, {
      onLost: () => onLost?.(memberId),
      onReach: (change) => this.#noteReach(peer, change),
    });
    const peer: OpenPeer = {
      member,
      connection,
      isReachable: true,
      directory: createLinkClient(DirectoryService, connection.transport),
      holder: createLinkClient(HolderService, connection.transport),
    };
    this.#open.set(memberId, peer);
    return peer;
  }

  #noteReach(peer: OpenPeer, { isReachable, forMs, cause }: ReachChange): void {
    peer.isReachable = isReachable;
    const facts = { member: peer.member.id, node: peer.member.workerAddress };
    if (isReachable) {
      this.#options.log.info({ ...facts, unreachableMs: forMs }, "a worker can be reached again");
    } else {
      this.#options.log.warn({ ...facts, cause }, "a worker can't be reached: calls to it fail until it can be");
    }
    this.#options.onReach?.();
  }

  /** The worker address of a member, for messages. */
  nameOf(memberId: number): string {
    return this.#view?.members.get(memberId)?.member.workerAddress ?? `member ${memberId}`;
  }

  /** Of several members: the first few. */
  namesOf(memberIds: readonly number[]): string {
    const names = memberIds.slice(0, NAMED_MAX).map((id) => this.nameOf(id));
    const others = memberIds.length - names.length;
    return others === 0 ? names.join(", ") : `${names.join(", ")}, and ${others} others`;
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
