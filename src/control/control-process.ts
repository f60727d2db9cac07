/**
 * The control process of a worker: joins the cluster, owns its part of the directory, asks the other owners, and serves
 * its sidecar. This file wires the parts; each of them has a file of its own.
 *
 * Order of start: store, link server, sidecar, membership. What is asked of this process before it has joined waits or
 * answers NOT_READY. Close goes the other way round.
 */
import { type Clock, createSystemClock } from "../base/clock.js";
import type { WorkerConfig } from "../base/config.js";
import { type Credentials, loadCredentials, markOf } from "../base/credentials.js";
import { createDeferred, pause, withDeadline } from "../base/deadline.js";
import { HbmeshError, StatusCode } from "../base/errors.js";
import { createLogger, type Logger } from "../base/log.js";
import { createSystemRandom, type RandomSource } from "../base/random.js";
import { loadTenants, type Tenants } from "../base/tenants.js";
import { createDecisions, type Decisions } from "../decision/index.js";
import type { Member } from "../gen/hbmesh/v1/cluster_pb.js";
import { DirectoryService, HolderService } from "../gen/hbmesh/v1/directory_pb.js";
import { openStore, type Store } from "../metadata/index.js";
import { createLinkRoutes, type LinkServiceImpl } from "../rpc/link-routes.js";
import { Announcer } from "./announcer.js";
import { Collector, Concluder } from "./collector.js";
import type { ControlDependencies, ControlProcess, ObjectCalls } from "./contract.js";
import { DeathWatch } from "./death-watch.js";
import { Departed } from "./departed.js";
import { describePeers } from "./describe-peers.js";
import { DirectoryOwner } from "./directory-owner.js";
import { Drain } from "./drain.js";
import { Forgetter } from "./forgetter.js";
import { Graves } from "./graves.js";
import { createHolderService, type DroppedObject, type HolderOptions, Holders } from "./holders.js";
import { createKeyCheck } from "./key-check.js";
import { LeaseGuard, OUT_MESSAGE } from "./lease-guard.js";
import { Membership, type MembershipView, type SelfDescription } from "./membership.js";
import type { ControlListener, ControlNetwork } from "./network.js";
import { createObjectCalls } from "./object-calls.js";
import { checkOwnLink } from "./own-link.js";
import { OwnerCalls } from "./owner-calls.js";
import { Peers } from "./peers.js";
import { confirmReach, createReachService, ReachWatch } from "./reach.js";
import { whyNotReady } from "./readiness.js";
import { describeSelf } from "./self.js";
import { NO_FIGURES, type SidecarLink } from "./sidecar-link.js";
import { SidecarRequests } from "./sidecar-requests.js";
import { SidecarSupervisor } from "./sidecar-supervisor.js";
import { Superseded } from "./superseded.js";
import { createTakingService } from "./taking.js";
import { createTcpNetwork } from "./tcp-network.js";

/** Rejects with the cause when the worker can't start; nothing of it is left then. */
export async function startControlProcess(
  config: WorkerConfig,
  dependencies: ControlDependencies = {},
): Promise<ControlProcess> {
  const control = new ControlProcessImpl(config, dependencies);
  try {
    await control.start();
  } catch (reason) {
    await control.close();
    throw reason;
  }
  return control;
}

/** An owner gives up before its askers do, so that its answer still reaches them. */
const OWNER_PATIENCE_SHARE = 0.6;
const READY_POLL_MS = 20;
const STATS_TIMEOUT_MS = 2_000;

class ControlProcessImpl implements ControlProcess {
  readonly config: WorkerConfig;
  readonly objects: ObjectCalls;
  readonly tenants: Tenants | undefined;
  readonly credentials: Credentials;
  readonly drain: Drain;
  readonly #clock: Clock;
  readonly #log: Logger;
  readonly #random: RandomSource;
  readonly #store: Store;
  readonly #ownsStore: boolean;
  readonly #network: ControlNetwork;
  readonly #peers: Peers;
  readonly #holders: Holders;
  readonly #graves: Graves;
  readonly #superseded: Superseded;
  readonly #owner: DirectoryOwner;
  readonly #calls: OwnerCalls;
  readonly #departed = new Departed();
  readonly #forgetter: Forgetter;
  readonly #collector: Collector;
  readonly #announcer: Announcer;
  readonly #membership: Membership;
  readonly #guard: LeaseGuard;
  readonly #deaths: DeathWatch;
  readonly #reach: ReachWatch;
  readonly #supervisor: SidecarSupervisor | undefined;
  readonly #holderOptions: HolderOptions;
  readonly #failed = createDeferred<HbmeshError>();
  #requests: SidecarRequests | undefined;
  #listener: ControlListener | undefined;
  #sessions = 0;
  #closing: Promise<void> | undefined;

  constructor(config: WorkerConfig, dependencies: ControlDependencies) {
    this.config = config;
    this.tenants = config.tenantsFile === undefined ? undefined : loadTenants(config.tenantsFile);
    this.#clock = dependencies.clock ?? createSystemClock();
    this.#log = dependencies.log ?? createLogger("worker");
    this.#store = dependencies.store ?? openStore(config.metadataAddress, this.#clock, config);
    this.#ownsStore = dependencies.store === undefined;
    this.credentials = loadCredentials(config);
    this.#network = dependencies.network ?? createTcpNetwork(this.#clock, this.#log, this.credentials);
    this.#random = dependencies.random ?? createSystemRandom();
    const random = this.#random;
    // Nobody can choose keys that make the directory slow.
    const hashSeed = (BigInt(random.nextBelow(2 ** 32)) << 32n) | BigInt(random.nextBelow(2 ** 32));
    const decisions = dependencies.decisions ?? createDecisions({ hashSeed });
    const { requestTimeoutMs, deadAfterMs } = config;
    const shared = { decisions, clock: this.#clock, log: this.#log, requestTimeoutMs, deadAfterMs };
    const checkKeys = createKeyCheck(decisions, config.keyRule);
    this.#peers = this.#createPeers();
    this.#holderOptions = {
      ...shared,
      peers: this.#peers,
      sidecar: () => this.#sidecar(),
      onDrop: (objects, epoch) => this.#onDrop(objects, epoch),
      onOwed: (versions) => this.#graves.bury(versions),
      inDoubt: () => this.#owner.vanished.inDoubt,
    };
    this.#holders = new Holders(this.#holderOptions);
    this.#graves = new Graves({ ...shared, peers: this.#peers, holders: this.#holders, checkKeys });
    this.#superseded = new Superseded({ ...shared, holders: this.#holders, graves: this.#graves });
    const patienceMs = Math.floor(requestTimeoutMs * OWNER_PATIENCE_SHARE);
    this.#owner = new DirectoryOwner({
      ...shared,
      holders: this.#holders,
      graves: this.#graves,
      superseded: this.#superseded,
      checkKeys,
      patienceMs,
      mayDecide: () => this.#guard.mayDecide,
      decidedUntilMs: () => this.#guard.decidedUntilMs,
    });
    this.#calls = new OwnerCalls({
      ...shared,
      peers: this.#peers,
      owner: this.#owner,
      departed: this.#departed,
      forgets: { tellFirst: (owner, epoch, keys) => this.#forgetter.tellFirst(owner, epoch, keys) },
    });
    this.#forgetter = new Forgetter({ ...shared, calls: this.#calls });
    const onMoved = (objects: readonly DroppedObject[]): void => this.#onGone(objects);
    this.drain = new Drain({ ...this.#holderOptions, ...shared, calls: this.#calls, onMoved });
    this.#collector = new Collector({ clock: this.#clock, patienceMs });
    const sidecar = (): SidecarLink | undefined => (this.#supervisor === undefined ? undefined : this.#supervisor.link);
    this.#announcer = new Announcer({
      ...shared,
      calls: this.#calls,
      sidecar,
      departed: this.#departed,
      onGone: (objects) => this.#forgetter.add(objects),
      isHung: () => this.#supervisor?.isHung === true,
      doubtMs: () => this.#owner.vanished.ownDoubtMs,
      concluder: new Concluder({ ...shared, peers: this.#peers, collector: this.#collector }),
      onConcluded: (epoch, missing, doubtMs) => this.#owner.conclude(epoch, missing, doubtMs),
    });
    this.#membership = this.#createMembership();
    this.#guard = this.#createGuard();
    this.#deaths = this.#createDeathWatch();
    this.#reach = new ReachWatch({ ...shared, peers: this.#peers, onChange: () => this.#tellReach() });
    this.#supervisor = this.#createSupervisor(dependencies, { ...shared, checkKeys });
    this.objects = createObjectCalls({ calls: this.#calls, holders: this.#holders, checkKeys, nameOf: this.#nameOf });
  }

  readonly #nameOf = (member: number): string => this.#peers.nameOf(member);

  get memberId(): number {
    return this.#membership.selfId;
  }

  get epoch(): bigint {
    return this.#membership.view?.epoch ?? 0n;
  }

  get members(): readonly Member[] {
    return [...(this.#membership.view?.members.values() ?? [])].map(({ member }) => member);
  }

  get notReadyReason(): string {
    return whyNotReady({
      isClosing: this.#closing !== undefined,
      drain: this.drain,
      supervisor: this.#supervisor,
      membership: this.#membership,
      owner: this.#owner,
      announcer: this.#announcer,
      guard: this.#guard,
      peers: this.#peers,
    });
  }

  get failed(): Promise<HbmeshError> {
    return this.#failed.promise;
  }

  async start(): Promise<void> {
    const conclude: LinkServiceImpl<typeof DirectoryService>["conclude"] = (request, { signal }) =>
      this.#collector.conclude(request, signal);
    const routes = createLinkRoutes()
      .service(DirectoryService, {
        ...this.#owner.service(),
        conclude,
        witness: () => this.#guard.witness,
        reach: createReachService(this.#network),
        entomb: (request) => this.#graves.take(request),
      })
      .service(HolderService, {
        ...createHolderService(this.#holderOptions),
        ...createTakingService(this.#holderOptions),
      });
    const onEnd = (host: string): void => this.#deaths.suspectHost(host);
    this.#listener = await this.#network.listen(this.config.linkAddress, routes, onEnd);
    await checkOwnLink(this.config, this.credentials, this.#network, this.#listener.address, this.#clock);
    await this.#supervisor?.start();
    await this.#membership.join();
    const { workerAddress, keyRule } = this.config;
    this.#log.info({ workerAddress, member: this.memberId, epoch: this.epoch, keyRule }, "joined the cluster");
    this.#log.info(
      { tenants: this.tenants?.count ?? 1 },
      this.tenants === undefined
        ? "no tenants file is configured: everyone who can connect sees all keys, as one tenant"
        : "tenants are told apart by their tokens",
    );
  }

  async whenReady(options: { signal?: AbortSignal; timeoutMs?: number } = {}): Promise<void> {
    const ending = new AbortController();
    const waiting = (async (): Promise<void> => {
      while (this.notReadyReason !== "" && !ending.signal.aborted) {
        this.#throwIfClosing();
        await pause(this.#clock, READY_POLL_MS, ending.signal);
      }
    })();
    try {
      await withDeadline(waiting, {
        clock: this.#clock,
        ...options,
        what: "waiting for the worker to become ready",
        code: StatusCode.NOT_READY,
      });
    } catch (reason) {
      const error = HbmeshError.from(reason);
      const why = this.notReadyReason;
      throw new HbmeshError(error.code, why === "" ? error.message : `${error.message}: ${why}`, {
        node: this.config.workerAddress,
        cause: reason,
      });
    } finally {
      ending.abort();
    }
  }

  async health(): ReturnType<ControlProcess["health"]> {
    const reason = this.notReadyReason;
    const supervisor = this.#supervisor;
    const asks = supervisor?.isUp === true && !supervisor.isHung;
    const asked = asks ? await supervisor.link.stats(STATS_TIMEOUT_MS).catch(() => undefined) : undefined;
    const { roomBytes: _room, ...figures } = asked ?? NO_FIGURES;
    return {
      ready: reason === "",
      workerAddress: this.config.workerAddress,
      reason: reason || this.#guard.warning || this.#reach.warning || this.#peers.warning,
      ...figures,
      sessions: this.#sessions,
    };
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  #throwIfClosing(): void {
    if (this.#closing !== undefined) {
      throw new HbmeshError(StatusCode.SHUTTING_DOWN, "the worker is shutting down", {
        node: this.config.workerAddress,
      });
    }
  }

  /** Leaves first, so that nobody asks any more; then settles what is pending, then ends the sidecar. */
  async #close(): Promise<void> {
    await this.drain.close();
    await this.#graves.bequeath();
    await this.#membership.leave();
    this.#guard.close();
    this.#deaths.close();
    this.#reach.close();
    this.#graves.close();
    this.#owner.close();
    this.#collector.close();
    this.#forgetter.close();
    this.#calls.close();
    await this.#announcer.close();
    this.#requests?.end(new HbmeshError(StatusCode.SHUTTING_DOWN, "the worker is shutting down"));
    await this.#supervisor?.close();
    this.#holders.close();
    await this.#listener?.close();
    this.#peers.close();
    if (this.#ownsStore) {
      await this.#store.close();
    }
    this.#log.info({ workerAddress: this.config.workerAddress }, "left the cluster");
  }

  #createMembership(): Membership {
    const { clusterName, keyRule, leaseMs } = this.config;
    return new Membership({
      store: this.#store,
      clock: this.#clock,
      log: this.#log,
      random: this.#random,
      clusterName,
      keyRule,
      tokenMark: markOf(this.credentials, clusterName),
      leaseMs,
      beforeJoin: (members, signal) => {
        const { address = "" } = this.#listener ?? {};
        const [clock, log, random, network] = [this.#clock, this.#log, this.#random, this.#network];
        return confirmReach({ clock, log, random, network, linkAddress: address, members, signal });
      },
      describeSelf: () => this.#describeSelf(),
      onView: (view) => this.#takeView(view),
      onRenewed: () => this.#guard.renewed(),
      onEvicted: (reason) => this.#failed.resolve(reason),
    });
  }

  #createGuard(): LeaseGuard {
    return new LeaseGuard({
      clock: this.#clock,
      log: this.#log,
      random: this.#random,
      peers: this.#peers,
      view: () => this.#membership.view,
      leaseUntilMs: () => this.#membership.leaseUntilMs,
      isRecordCurrent: () => this.#membership.isRecordCurrent,
      onResume: () => {
        this.#setOut(undefined);
        this.#owner.resume();
      },
      onOut: () => this.#setOut(new HbmeshError(StatusCode.TRY_AGAIN, OUT_MESSAGE)),
    });
  }

  #createPeers(): Peers {
    const onLost = (id: number): void => this.#deaths.suspect(id);
    return new Peers({ network: this.#network, log: this.#log, onLost, onReach: () => this.#tellReach() });
  }

  #createDeathWatch(): DeathWatch {
    return new DeathWatch({
      clock: this.#clock,
      log: this.#log,
      view: () => this.#membership.view,
      isRefused: async (address) => (await this.#network.isRefused?.(address)) ?? false,
      remove: (id) => this.#membership.removeDead(id),
    });
  }

  #createSupervisor(
    { spawnSidecar: spawn, takeOverSidecar: takeOver }: ControlDependencies,
    shared: { decisions: Decisions; checkKeys: ReturnType<typeof createKeyCheck> },
  ): SidecarSupervisor | undefined {
    if (spawn === undefined) {
      return undefined;
    }
    const requestOptions = {
      ...shared,
      config: this.config,
      clock: this.#clock,
      log: this.#log,
      calls: this.#calls,
      holders: this.#holders,
      nameOf: this.#nameOf,
      onGone: (objects: readonly DroppedObject[]) => this.#onGone(objects),
      onSessions: (sessions: number) => {
        this.#sessions = sessions;
      },
    };
    return new SidecarSupervisor({
      clock: this.#clock,
      log: this.#log,
      workerAddress: this.config.workerAddress,
      spawn,
      takeOver,
      restartsMax: this.config.sidecarRestartsMax,
      hangMs: this.config.sidecarHangMs,
      onRequest: (message) => this.#requests?.take(message),
      onUp: (link) => {
        this.#requests = new SidecarRequests(requestOptions, () => link);
        this.#sessions = 0;
        const { view } = this.#membership;
        if (view !== undefined) {
          link.tellPeers(describePeers(view));
          this.#tellReach();
          void this.#announceRestart();
        }
      },
      onDown: (reason) => this.#requests?.end(reason),
      onHung: () => this.#announcer.sidecarHangs(),
      onBack: () => void this.#announceRestart(),
      onGiveUp: (reason) => this.#failed.resolve(reason),
    });
  }

  /** The new sidecar has other addresses and may hold less: the member's record changes, everyone announces anew. */
  async #announceRestart(): Promise<void> {
    for (;;) {
      try {
        return await this.#membership.announceSelf();
      } catch (reason) {
        if (this.#closing !== undefined) {
          return;
        }
        this.#log.warn(
          { cause: String(reason) },
          "could not tell the cluster that the sidecar was restarted; trying again",
        );
        await pause(this.#clock, 500);
      }
    }
  }

  #setOut(reason: HbmeshError | undefined): void {
    this.#calls.setOut(reason);
    this.#tellReach();
  }

  /** Whether sets may be in vain (SidecarLink.tellReach): an owner is silent, or refuses whoever asks. */
  #tellReach(): void {
    if (this.#supervisor?.isUp === true) {
      const isLost = this.#peers.warning !== "" || this.#reach.warning !== "";
      this.#supervisor.link.tellReach(this.#calls.isOut || isLost);
    }
  }

  #onGone(objects: readonly DroppedObject[]): void {
    this.#departed.note(objects);
    this.#forgetter.add(objects);
  }

  /**
   * Of a drop that was decided under an older ring the owners of now don't know, though they may know of the object by
   * an announcement.
   */
  #onDrop(objects: readonly DroppedObject[], epoch: bigint): void {
    this.#departed.note(objects);
    if (this.epoch > epoch) {
      this.#forgetter.add(objects);
    }
  }

  #sidecar(): SidecarLink {
    if (this.#supervisor === undefined) {
      throw new HbmeshError(
        StatusCode.NOT_FOUND,
        `worker ${this.config.workerAddress} runs without a sidecar and holds no objects`,
      );
    }
    return this.#supervisor.link;
  }

  #describeSelf(): SelfDescription {
    const info = this.#supervisor?.isUp === true ? this.#supervisor.link.info : undefined;
    return describeSelf(this.config, this.#listener?.address ?? "", info);
  }

  /** In this order: who can be asked, who owns what, who waits for that, and then what this member has to tell. */
  #takeView(view: MembershipView): void {
    this.#peers.setView(view);
    this.#holders.setView(view);
    this.#owner.setView(view);
    this.#calls.setView(view);
    void this.#graves.setView(view);
    this.#collector.setView(view);
    this.#reach.setView(view);
    if (this.#supervisor?.isUp === true) {
      this.#supervisor.link.tellPeers(describePeers(view));
      this.#tellReach();
    }
    this.#announcer.setView(view);
    this.#guard.renewed();
    this.#log.info({ epoch: view.epoch, members: view.members.size }, "the ring has changed");
  }
}
