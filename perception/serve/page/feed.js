// The newest frame of one camera, again and again: asked for only when the last one has been shown, so nothing piles up.

// bytes of /next (view.py) -> {seq, record, status, points, bitmap, maps: {head: {hw, ids: Uint8Array}}, ...}
async function parse(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const message = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  let at = 4 + length;
  const take = (bytes) => new Uint8Array(buffer, (at += bytes) - bytes, bytes);
  message.bitmap = await createImageBitmap(new Blob([take(message.image.bytes)], { type: "image/jpeg" }));
  const maps = {};
  for (const { head, bytes, hw } of message.maps) {
    const stream = new Blob([take(bytes)]).stream().pipeThrough(new DecompressionStream("deflate"));
    maps[head] = { hw, ids: new Uint8Array(await new Response(stream).arrayBuffer()) };
  }
  message.maps = maps;
  return message;
}

const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

export class Feed {
  // show(message) is awaited before the next one is asked for; say(state) is live, waiting, ended or lost
  constructor(show, say) {
    this.show = show;
    this.say = say;
    this.paused = false;
    this.after = -1;
    this.camera = ""; // the one to ask for; "" = the first
    this.turned = false; // to another camera, of which nothing has been shown yet
    this.asking = new AbortController();
    this.resume = () => {};
    document.addEventListener("visibilitychange", () => this.resume());
  }

  pause(paused) {
    this.paused = paused;
    this.resume();
  }

  // from now on another camera; while paused, one frame of it
  turn(camera) {
    this.camera = camera;
    this.after = -1;
    this.turned = true;
    this.asking.abort();
    this.resume();
  }

  async run() {
    for (;;) {
      while ((this.paused && !this.turned) || document.hidden) await new Promise((done) => { this.resume = done; });
      const camera = this.camera;
      this.asking = new AbortController();
      try {
        const address = `next?after=${this.after}&camera=${encodeURIComponent(camera)}`;
        const answer = await fetch(address, { cache: "no-store", signal: this.asking.signal });
        if (answer.status === 204) { this.say("waiting"); continue; }
        if (answer.status === 404 && camera) { this.camera = ""; continue; } // a new run, without this camera
        if (!answer.ok) throw new Error(answer.status === 410 ? "ended" : "lost");
        const message = await parse(await answer.arrayBuffer());
        if (camera !== this.camera || (this.paused && !this.turned)) { message.bitmap.close(); continue; }
        this.turned = false;
        this.after = message.seq;
        this.say("live");
        await this.show(message);
      } catch (error) {
        if (camera !== this.camera) continue; // no answer is wanted any more
        this.say(error.message === "ended" ? "ended" : "lost");
        this.after = -1; // whoever answers next may be another run
        await sleep(1500);
      }
    }
  }
}
