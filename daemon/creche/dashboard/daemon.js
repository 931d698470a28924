// The daemon: its API, and its stream, which comes back by itself and goes on where it was.

const QUIET_MS = 10_000; // numbers come every two seconds: after so long the connection is dead, whatever it says
const WAIT_MS = [500, 1000, 2000, 5000];

let token = sessionStorage.getItem("creche-token") ?? "";

export function useToken(text) {
  token = text;
  sessionStorage.setItem("creche-token", text);
}

export class Problem extends Error {
  constructor(status, problem) {
    super(problem.detail ?? `the daemon answers ${status}`);
    this.status = status;
    this.code = problem.code ?? "";
  }
}

export async function ask(path, options = {}) {
  const headers = token ? {Authorization: `Bearer ${token}`} : {};
  const response = await fetch(path, {...options, headers, signal: AbortSignal.timeout(30_000)});
  if (!response.ok) throw new Problem(response.status, await response.json().catch(() => ({})));
  return response;
}

export const getJson = async (path) => (await ask(path)).json();

export const post = async (path, body) =>
  (await ask(path, {method: "POST", body: body === undefined ? undefined : JSON.stringify(body)})).json();

function protocols() {
  if (!token) return ["creche"];
  const binary = String.fromCharCode(...new TextEncoder().encode(token));
  return ["creche", `token.${btoa(binary).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "")}`];
}

export class Stream {
  // `opened(again)` is called when a connection begins, `heard(message)` for each message, `lost()` when it is gone.
  constructor({opened, heard, lost}) {
    this.events = {opened, heard, lost};
    this.cursor = "";
    this.tries = 0;
    this.was = false;
  }

  open() {
    const url = new URL("/v1/stream", location.href);
    url.protocol = url.protocol.replace("http", "ws");
    url.search = new URLSearchParams({since: this.cursor, updates: "1", stats: "1"});
    const socket = new WebSocket(url, protocols());
    this.watch(socket);
    socket.onmessage = ({data}) => {
      this.watch(socket);
      const message = JSON.parse(data);
      if (message.cursor) this.cursor = message.cursor;
      if (message.type === "hello") {
        this.tries = 0;
        this.events.opened(this.was);
        this.was = true;
      }
      this.events.heard(message);
    };
    socket.onclose = () => {
      clearTimeout(this.quiet);
      this.events.lost();
      setTimeout(() => this.open(), WAIT_MS[Math.min(this.tries++, WAIT_MS.length - 1)]);
    };
  }

  watch(socket) {
    clearTimeout(this.quiet);
    this.quiet = setTimeout(() => socket.close(), QUIET_MS);
  }
}
